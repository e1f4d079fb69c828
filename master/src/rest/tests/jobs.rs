//! Jobs, and how old what is shown of them may be.

use super::*;

#[tokio::test]
async fn a_job_whose_slave_is_away_shows_its_last_word_and_how_old_that_is() {
    let (id, records) = away(JobState::Running);
    let master = Master::start(records).await;
    let id = json!(id.to_string());
    let job = master.job(&id).await;
    assert_eq!(
        (&job["state"], &job["slave"], &job["attempt"]),
        (&json!("running"), &json!("mill-3"), &json!(1))
    );
    assert_eq!(job["flags"], json!(["stale"]));
    let freshness = json!({ "link": "offline", "observed_at": "2023-11-14T22:15:00Z", "at_least": true });
    assert_eq!(job["freshness"], freshness, "this master has not heard the slave");
    assert_eq!(job["started_at"], "2023-11-14T22:13:40Z");
    assert_eq!(job["revision"], 3);
    let path = format!("/v1/jobs/{}", id.as_str().unwrap());

    let log = master.get(&format!("{path}/log")).await;
    log.problem(409, "slave_offline");
    let most = reloop_protocol::limits::LOG_BYTES;
    master.get(&format!("{path}/log?limit={most}")).await.problem(409, "slave_offline");
    master.get(&format!("{path}/log?limit={}", most + 1)).await.problem(400, "bad_request");
    let described = master.get("/v1/openapi.json").await.expect(200).to_string();
    assert!(
        described.contains(&format!("Bytes at most: 1 to {most},")),
        "the description tells the same limit"
    );
    master.post(&format!("{path}/resolve"), json!({})).await.problem(400, "bad_request");
    master.post(&format!("{path}/resolve"), json!({ "outcome": "failed" })).await.problem(409, "wrong_state");
    let canceled = master.post(&format!("{path}/cancel"), json!({ "mode": "now" })).await.expect(202);
    let expected = json!({
        "job": id, "command": "cancel", "delivery": "pending_on_reconnect", "state": "running",
        "slave_link": "offline",
    });
    assert_eq!(canceled, expected);
    let job = master.job(&id).await;
    assert_eq!((&job["desired"], &job["flags"]), (&json!("cancel"), &json!(["stale", "cancel_pending"])));
    master.post(&format!("{path}/resume"), json!({})).await.problem(409, "wrong_state");

    assert_eq!(master.post(&format!("{path}/abandon"), json!({})).await.expect(202)["state"], "lost");
    let job = master.job(&id).await;
    assert_eq!(
        (&job["state"], &job["reason"]["code"], &job["flags"]),
        (&json!("lost"), &json!("abandoned"), &json!([]))
    );
    assert_eq!(master.post(&format!("{path}/retry"), json!({})).await.expect(202)["state"], "queued");
    let job = master.job(&id).await;
    assert_eq!(job["earlier"][0]["slave"], "mill-3");
}

#[test]
fn a_job_is_never_shown_as_heard_earlier_than_before() {
    let (_, records) = away(JobState::Running);
    let job = records
        .iter()
        .find_map(|record| if let Write::Job(job) = record { Some((**job).clone()) } else { None });
    let job = job.unwrap();
    let seen = |job: &Job, live: bool, heard: Option<i64>, last_contact: Option<i64>| {
        let holder = view::Holder { name: "mill-3".to_owned(), live, last_contact: last_contact.map(Time) };
        let view = view::job(job, &BTreeMap::from([(MILL, holder)]), |_| heard.map(Time));
        let freshness = serde_json::to_value(view.freshness).unwrap();
        (freshness["observed_at"].as_str().map(str::to_owned), freshness["at_least"] == true)
    };
    let at = |ms: i64| Some(view::time(Time(ms)));
    let job = Job { heard_at: Some(Time(10_000)), ..job };
    // It is quiet for 40 s, and then its link ends.
    assert_eq!(seen(&job, true, Some(50_000), Some(5_000)), (at(50_000), false));
    assert_eq!(seen(&job, false, Some(50_000), Some(50_000)), (at(50_000), false));
    // The look came before the link ended, and the last sign is asked for after that.
    assert_eq!(seen(&job, true, Some(50_000), Some(5_000)), (at(50_000), false));
    // A master that has started since does not know what it heard, but not less than the job's own facts.
    let mut restored = Job { heard_at: None, ..job };
    assert_eq!(seen(&restored, false, None, Some(5_000)), (at(5_000), true));
    restored.events.push_back(master::JobEvent {
        at: Time(20_000),
        observed_at: None,
        state: JobState::Running,
        attempt: Attempt(1),
        by: "mill-3".to_owned(),
    });
    assert_eq!(seen(&restored, false, None, Some(5_000)), (at(20_000), true));
    assert_eq!(seen(&restored, false, None, None), (at(20_000), true));
}
