//! Orders: placed once, never lost, listed in pages.

use super::*;

#[tokio::test]
async fn an_order_is_answered_with_its_jobs_and_is_there_afterwards() {
    let master = Master::empty().await;
    let body = json!({ "program": "mill", "name": "bracket", "quantity": 3, "params": { "file": "a.nc" } });
    let placed = master.post("/v1/orders", body).await;
    let order = placed.expect(201);
    assert_eq!(placed.headers["location"], format!("/v1/orders/{}", order["id"].as_str().unwrap()));
    assert_eq!(order["jobs"].as_array().unwrap().len(), 3);
    assert_eq!(order["jobs"][0]["state"], "queued");
    assert_eq!(
        order["jobs"][0]["freshness"],
        json!({ "link": null, "observed_at": null, "at_least": false })
    );
    let again = master.get(placed.headers["location"].to_str().unwrap()).await.expect(200);
    assert_eq!(again, order);
    assert_eq!(master.job(&order["jobs"][1]["id"]).await, order["jobs"][1]);
    let listed = master.get("/v1/orders").await.expect(200);
    assert_eq!(listed["data"][0]["jobs"][2], order["jobs"][2]["id"]);
    let id = order["jobs"][0]["id"].as_str().unwrap();
    let explained = master.get(&format!("/v1/jobs/{id}/explain")).await.expect(200);
    assert_eq!(explained["summary"], "there are no slaves: enrol one");
    let events = master.get(&format!("/v1/jobs/{id}/events")).await.expect(200);
    assert_eq!(events["data"][0]["state"], "queued");
    assert_eq!(events["data"][0]["by"], "client");
}

#[tokio::test]
async fn an_order_that_is_sent_again_with_its_key_is_placed_once() {
    let master = Master::empty().await;
    let first = master.place(json!({ "program": "mill", "quantity": 2 }), "k 1").await;
    assert!(first.headers.get("idempotency-replayed").is_none());
    let again = master.place(json!({ "quantity": 2.0, "program": "mill" }), "k 1").await;
    assert_eq!(again.expect(201)["id"], first.expect(201)["id"]);
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.headers["location"], first.headers["location"]);
    let other = master.place(json!({ "program": "bake" }), "k 1").await;
    assert!(
        other.problem(422, "idempotency_key_reused")["detail"].as_str().unwrap().contains("use a new key")
    );
    assert_eq!(master.get("/v1/jobs").await.expect(200)["data"].as_array().unwrap().len(), 2);
    master.place(json!({ "program": "bake" }), "").await.problem(400, "bad_request");
}

#[tokio::test]
async fn a_canceled_order_says_how_far_each_cancel_got() {
    let master = Master::empty().await;
    let order = master.post("/v1/orders", json!({ "program": "mill", "quantity": 2 })).await.expect(201);
    let path = format!("/v1/orders/{}/cancel", order["id"].as_str().unwrap());
    master.post(&path, json!({ "mode": "gently" })).await.problem(400, "bad_request");
    let canceled = master.post(&path, json!({})).await.expect(202);
    let expected = order["jobs"].as_array().unwrap().iter();
    let expected: Vec<_> = expected.map(|job| json!({ "id": job["id"], "delivery": "applied" })).collect();
    assert_eq!(canceled["jobs"], Value::Array(expected));
    let job = master.job(&order["jobs"][0]["id"]).await;
    assert_eq!((&job["state"], &job["reason"]["code"]), (&json!("canceled"), &json!("canceled")));
    assert!(job["ended_at"].is_string());
    let again = master.post(&path, json!({})).await.expect(202);
    assert_eq!(again["jobs"][1]["delivery"], "too_late");
}

#[tokio::test]
async fn lists_go_on_where_the_last_page_ended() {
    let master = Master::empty().await;
    let mut orders = Vec::new();
    for program in ["mill", "bake", "mill"] {
        orders
            .push(master.post("/v1/orders", json!({ "program": program, "quantity": 2 })).await.expect(201));
    }
    master
        .post(&format!("/v1/jobs/{}/cancel", orders[0]["jobs"][0]["id"].as_str().unwrap()), json!({}))
        .await;
    for (query, expected) in
        [("", 6), ("&state=queued", 5), ("&state=canceled,queued", 6), ("&state=canceled", 1)]
    {
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = master.get(&format!("/v1/jobs?limit=2{query}{cursor}")).await.expect(200);
            found.extend(
                page["data"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()),
            );
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(found.len(), expected, "{query}");
        assert!(found.is_sorted_by(|newer, older| newer > older), "newest first, each once: {query}");
    }
    let of_order = format!("/v1/jobs?order={}", orders[1]["id"].as_str().unwrap());
    assert_eq!(master.get(&of_order).await.expect(200)["data"].as_array().unwrap().len(), 2);
    master.get("/v1/jobs?state=busy").await.problem(400, "bad_request");
    master.get("/v1/jobs?limit=0").await.problem(400, "bad_request");
    master.get("/v1/jobs?colour=red").await.problem(400, "unknown_field");
    master.get("/v1/jobs?slave=nobody").await.problem(404, "not_found");
}

#[tokio::test]
async fn a_master_whose_disk_is_full_takes_no_orders_and_goes_on_answering() {
    let (id, records) = away(JobState::Running);
    let master = Master::start_with(records, u64::MAX).await;
    let refused = master.post("/v1/orders", json!({ "this": "is not even looked at" })).await;
    refused.problem(503, "storage_unavailable");
    assert_eq!(refused.headers["retry-after"], "5");
    assert_eq!(master.job(&json!(id.to_string())).await["state"], "running");
    assert_eq!(master.ask("GET", "/livez", &[], "").await.status, 200);
    let ready = master.ask("GET", "/readyz?verbose", &[], "").await;
    assert!(ready.status == 503 && ready.text.starts_with("[-]store failed: "), "{}", ready.text);
    assert!(master.get("/metrics").await.text.contains("\nreloop_store_healthy 0\n"));
}

#[tokio::test]
async fn a_new_order_is_the_newest_also_if_others_were_placed_by_a_clock_that_was_ahead() {
    // The clock was an hour ahead, was corrected, and the master was started again.
    let ahead = Time(wall_ms() + 3_600_000);
    let mut newest = NewestId::default();
    let mut records = Vec::new();
    for state in [JobState::Queued, JobState::Succeeded] {
        let new_ids = |jobs| crate::handle::new_ids(&mut newest, ahead, jobs);
        let order = order::parse(Some(json!({ "program": "mill" })), ahead, new_ids).unwrap();
        let mut job = Job::new(order.jobs[0], &order);
        job.state = state;
        records.extend([Write::Order(Box::new(order)), Write::Job(Box::new(job))]);
    }
    let master = Master::start(records).await;
    let mut placed = Vec::new();
    for _ in 0..3 {
        let order = master.post("/v1/orders", json!({ "program": "mill", "quantity": 2 })).await.expect(201);
        placed.insert(0, order["id"].clone());
        let jobs = master.get("/v1/jobs").await.expect(200);
        let newest: Vec<_> = jobs["data"].as_array().unwrap()[..2].iter().map(|job| &job["order"]).collect();
        assert_eq!(newest, [&order["id"], &order["id"]]);
    }
    let orders = master.get("/v1/orders").await.expect(200);
    let listed: Vec<_> = orders["data"].as_array().unwrap().iter().map(|order| order["id"].clone()).collect();
    assert_eq!((listed.len(), &listed[..3]), (5, &placed[..]), "newest first");
}
