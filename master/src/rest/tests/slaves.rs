//! Slaves, their names, and what people decide about them.

use super::*;

#[tokio::test]
async fn a_slave_shows_its_axes_and_what_people_decide() {
    let (id, records) = away(JobState::Running);
    let master = Master::start(records).await;
    let slave = master.get("/v1/slaves/mill-3").await.expect(200);
    assert_eq!((&slave["link"], &slave["mode"]), (&json!("offline"), &json!("production")));
    assert_eq!((&slave["activity"], &slave["status"]), (&json!("running"), &json!("offline")));
    assert_eq!(slave["jobs"], json!([id.to_string()]));
    assert_eq!(slave["last_contact_at"], "2023-11-14T22:15:00Z");
    assert_eq!(slave["last_contact_at_least"], true);
    let by_key = master.get(&format!("/v1/slaves/{}", slave["key"].as_str().unwrap())).await.expect(200);
    assert_eq!(by_key, slave);
    let list = master.get("/v1/slaves?link=offline&mode=production").await.expect(200);
    assert_eq!(list["data"], json!([slave]));
    assert!(master.get("/v1/slaves?link=online").await.expect(200)["data"].as_array().unwrap().is_empty());

    let moved =
        master.post("/v1/slaves/mill-3/mode", json!({ "mode": "maintenance", "reason": "oil" })).await;
    assert_eq!(moved.expect(202)["delivery"], "pending_on_reconnect");
    let slave = master.get("/v1/slaves/mill-3").await.expect(200);
    assert_eq!((&slave["status"], &slave["mode_pending"]), (&json!("maintenance"), &json!(true)));
    master.post("/v1/slaves/mill-3/mode", json!({ "mode": "resting" })).await.problem(400, "bad_request");
    master.post("/v1/slaves/mill-3/mode", json!({})).await.problem(400, "bad_request");
    master.post("/v1/slaves/mill-3/ready", json!({})).await.problem(409, "nothing_to_do");
    assert_eq!(master.post("/v1/slaves/mill-3/forget", json!({})).await.expect(202)["delivery"], "applied");
    assert_eq!(master.get("/v1/slaves/mill-3").await.expect(200)["enrolled"], "revoked");
    let refused = master.post("/v1/slaves/mill-3/approve", json!({})).await;
    let detail = refused.problem(409, "slave_revoked")["detail"].to_string();
    assert!(detail.contains("reloop slave enroll-token"), "{detail}");
    assert_eq!(master.get("/v1/slaves/mill-3").await.expect(200)["enrolled"], "revoked");
}

#[tokio::test]
async fn a_name_that_two_newcomers_carry_approves_neither() {
    let newcomer = |first: u8| {
        let mut slave = mill();
        slave.key = SlaveKey([first; 32]);
        slave.enrolled = Enrolled::Pending;
        slave.store = None;
        Write::Slave(Box::new(slave))
    };
    let master = Master::start(vec![newcomer(1), newcomer(2)]).await;
    let refused = master.post("/v1/slaves/mill-3/approve", json!({})).await;
    assert!(refused.problem(409, "conflict")["detail"].as_str().unwrap().contains("0101010101010101"));
    master.post("/v1/slaves/0202020202020202/approve", json!({})).await.expect(202);
    let slave = master.get("/v1/slaves/mill-3").await.expect(200);
    assert_eq!((&slave["key"], &slave["link"]), (&json!("0202020202020202"), &json!("never")));
}
