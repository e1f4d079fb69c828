//! Who may do what, and what is wrong with a request.

use super::*;

#[tokio::test]
async fn what_is_wrong_with_a_request_is_a_problem_with_a_code() {
    let master = Master::empty().await;
    master.get("/v1/nothing").await.problem(404, "not_found");
    master.get("/v1/jobs/job_1").await.problem(404, "not_found");
    master.get("/v1/jobs/job_01J8ZK7000000000000000000A").await.problem(404, "not_found");
    master.get("/v1/jobs/%ff").await.problem(400, "bad_request");
    master.get("/v1/slaves/nobody").await.problem(404, "not_found");
    let wrong = master
        .ask("DELETE", "/v1/orders", &[("authorization", &format!("Bearer {}", master.admin))], "")
        .await;
    wrong.problem(405, "method_not_allowed");
    assert!(wrong.headers["allow"].to_str().unwrap().contains("POST"));
    let headers = [("authorization", &*format!("bearer {}", master.admin))];
    master.ask("POST", "/v1/orders", &headers, "{\"program\": ").await.problem(400, "bad_request");
    master.ask("POST", "/v1/orders", &headers, vec![b' '; 300_000]).await.problem(413, "body_too_large");
    master.post("/v1/orders", json!([1])).await.problem(400, "bad_request");
    let unknown = master.post("/v1/orders", json!({ "program": "mill", "colour": "red" })).await;
    assert_eq!(unknown.problem(400, "unknown_field")["errors"][0]["field"], "/colour");
    assert!(
        master.get("/v1/orders").await.expect(200)["data"].as_array().unwrap().is_empty(),
        "nothing was placed"
    );
}

#[tokio::test]
async fn every_route_asks_for_its_role_and_tells_strangers_nothing() {
    let master = Master::empty().await;
    let bearers = Role::ALL.map(|role| (role, master.tokens.create(role.name(), role).unwrap().1));
    for route in routes() {
        let path = route.path.replace("{id}", "none").replace("{name}", "none");
        let method = route.method.as_str();
        let needed = match route.access {
            Access::Everybody => None,
            Access::Metrics => Some(Role::Viewer),
            Access::From(role) => Some(role),
        };
        let stranger = master.ask(method, &path, &[], "").await;
        match needed {
            None => assert_eq!(stranger.status, 200, "{method} {path}"),
            Some(_) => {
                stranger.problem(401, "unauthorized");
                assert_eq!(stranger.headers["www-authenticate"], "Bearer realm=\"reloop\"");
            }
        }
        // Streams do not end, and the effects of what is granted are for other tests.
        for (role, token) in
            bearers.iter().filter(|_| path != "/v1/events" && !path.ends_with("confirm-restore"))
        {
            let reply = master.ask(method, &path, &[("authorization", &format!("Bearer {token}"))], "").await;
            let refused = needed.is_some_and(|needed| *role < needed);
            assert_eq!(reply.status == 403, refused, "{role} {method} {path}: {}", reply.text);
            assert_ne!(reply.status, 500, "{method} {path}: {}", reply.text);
        }
    }
    for (header, token) in
        [("authorization", "Basic YTpi"), ("authorization", "Bearer"), ("x-token", &master.admin)]
    {
        master.ask("GET", "/v1/jobs", &[(header, token)], "").await.problem(401, "unauthorized");
    }
    master.ask("GET", "/v1/nothing", &[], "").await.problem(401, "unauthorized");
}

#[tokio::test]
async fn tokens_are_made_listed_and_revoked() {
    let master = Master::empty().await;
    let made = master.post("/v1/tokens", json!({ "name": "wall", "role": "viewer" })).await.expect(201);
    let headers = [("authorization", &*format!("Bearer {}", made["token"].as_str().unwrap()))];
    master.ask("GET", "/v1/jobs", &headers, "").await.expect(200);
    master.ask("POST", "/v1/orders", &headers, "{}").await.problem(403, "forbidden");
    let list = master.get("/v1/tokens").await.expect(200);
    assert!(list["data"].as_array().unwrap().iter().any(|token| token["id"] == made["id"]));
    assert!(!list.to_string().contains(made["token"].as_str().unwrap()), "the text is shown once");
    let path = format!("/v1/tokens/{}", made["id"].as_str().unwrap());
    let admin = [("authorization", &*format!("Bearer {}", master.admin))];
    assert_eq!(master.ask("DELETE", &path, &admin, "").await.status, 204);
    master.ask("GET", "/v1/jobs", &headers, "").await.problem(401, "unauthorized");
    master.ask("DELETE", &path, &admin, "").await.problem(404, "not_found");
    master.post("/v1/tokens", json!({ "role": "king" })).await.problem(400, "bad_request");
    let enroll =
        master.post("/v1/enroll-tokens", json!({ "name": "mill-3", "ttl_seconds": 60 })).await.expect(201);
    assert!(enroll["token"].as_str().unwrap().starts_with("xenr1."));
    assert_eq!((&enroll["uses"], &enroll["name"]), (&json!(1), &json!("mill-3")));
}

#[tokio::test]
async fn a_restore_that_no_slave_speaks_of_is_confirmed_only_by_force() {
    let master = Master::empty().await;
    let path = "/v1/master/confirm-restore";
    let refused = master.post(path, json!({})).await;
    refused.problem(409, "nothing_to_do");
    assert!(refused.text.contains("--force"), "{}", refused.text);
    assert!(!refused.headers.contains_key(reloop_api::header::DOUBTED));
    master.post(path, json!({ "force": "yes" })).await.problem(400, "bad_request");
    assert_eq!(master.post(path, json!({ "force": true })).await.expect(200)["epoch"], 2);
}
