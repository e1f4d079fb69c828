//! Health, numbers, what needs a person, and the page.

use super::*;

#[tokio::test]
async fn health_and_metrics_tell_what_is() {
    let (_, records) = away(JobState::Running);
    let master = Master::start(records).await;
    assert_eq!(master.ask("GET", "/livez", &[], "").await.text, "ok\n");
    let ready = master.ask("GET", "/readyz?verbose", &[], "").await;
    assert_eq!((ready.status, &*ready.text), (200, "[+]store ok\n[+]loop ok\nready\n"));
    let metrics = master.get("/metrics").await.text;
    for line in [
        "reloop_jobs{state=\"running\"} 1",
        "reloop_jobs{state=\"queued\"} 0",
        "reloop_slaves{link=\"offline\",mode=\"production\"} 1",
        "reloop_slaves{link=\"online\",mode=\"production\"} 0",
        "reloop_store_healthy 1",
        "reloop_needs_person 0",
        "# TYPE reloop_jobs gauge",
    ] {
        assert!(metrics.lines().any(|at| at == line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn what_needs_a_person_is_counted_and_listed_whatever_waits_beside_it() {
    let (uncertain, records) = away(JobState::Uncertain);
    let master = Master::start(records).await;
    let held = json!({ "program": "mill", "quantity": 30, "start": { "hold": true } });
    master.post("/v1/orders", held).await.expect(201);
    for _ in 0..3 {
        master.post("/v1/orders", json!({ "program": "mill", "quantity": 1000 })).await.expect(201);
    }
    let counts = master.get("/v1/counts").await.expect(200);
    let jobs = json!({
        "queued": 3030, "assigned": 0, "accepted": 0, "starting": 0, "running": 0, "paused": 0, "stopping": 0,
        "uncertain": 1,
    });
    let slaves = json!({ "online": 0, "offline": 1, "never": 0 });
    assert_eq!(counts, json!({ "jobs": jobs, "slaves": slaves, "needs": 31 }));
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = master.get(&format!("/v1/needs?limit=7{cursor}")).await.expect(200);
        found.extend(page["data"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={}", next.replace(' ', "%20")),
            None => break,
        }
    }
    let uncertain = uncertain.to_string();
    let first = json!({
        "need": "uncertain", "slave": "mill-3", "slave_key": "0707070707070707", "job": uncertain,
        "text": "nobody knows how it ended: look at the machine", "action": "resolve",
        "command": format!("reloop job resolve {uncertain} succeeded|failed|canceled"),
        "risk": found[0]["risk"],
    });
    assert_eq!(found[0], first);
    assert_eq!(
        (found.len(), found[30]["need"].as_str(), found[30]["action"].as_str()),
        (31, Some("held"), Some("release"))
    );
    for cursor in ["held", "held%20job_1", "rest%200707", "held%20zz"] {
        master.get(&format!("/v1/needs?cursor={cursor}")).await.problem(400, "bad_request");
    }
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere() {
    let master = Master::empty().await;
    for path in ["/", "/assets/app.js", "/assets/app.css"] {
        let file = master.ask("GET", path, &[], "").await;
        assert_eq!(file.status, 200);
        assert!(file.headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'self';"));
        for foreign in ["http://", "https://", "innerHTML", "style=", " onclick"] {
            assert!(!file.text.contains(foreign), "{path} has {foreign}");
        }
    }
}
