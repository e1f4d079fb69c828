//! The stream of changes.

use futures_util::StreamExt as _;

use super::*;

/// The stream's blocks as they come.
struct Events {
    body: axum::body::BodyDataStream,
    unread: String,
}

impl Events {
    async fn open(master: &Master, last: Option<&str>) -> Self {
        let mut request =
            HttpRequest::get("/v1/events").header("authorization", format!("Bearer {}", master.admin));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = master.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        Self { body: response.into_body().into_data_stream(), unread: String::new() }
    }

    /// The next block's fields; none when the stream has ended.
    async fn next(&mut self) -> Option<BTreeMap<String, String>> {
        loop {
            if let Some((block, rest)) = self.unread.split_once("\n\n") {
                let fields = block.lines().filter_map(|line| line.split_once(": "));
                let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                self.unread = rest.to_owned();
                return Some(fields);
            }
            let part = tokio::time::timeout(PATIENCE, self.body.next())
                .await
                .expect("an event within the patience")?;
            self.unread.push_str(std::str::from_utf8(&part.unwrap()).unwrap());
        }
    }
}

#[tokio::test]
async fn changes_are_streamed_and_a_client_that_comes_back_misses_none() {
    let master = Master::empty().await;
    let mut events = Events::open(&master, None).await;
    let begin = events.next().await.unwrap();
    assert!(!begin.contains_key("data"), "the beginning only says where it is");
    let order = master.post("/v1/orders", json!({ "program": "mill" })).await.expect(201);
    let changed = events.next().await.unwrap();
    assert_eq!(changed["event"], "job.changed");
    let job: Value = serde_json::from_str(&changed["data"]).unwrap();
    assert_eq!(job, order["jobs"][0]);
    drop(events);

    let cancel = format!("/v1/jobs/{}/cancel", job["id"].as_str().unwrap());
    master.post(&cancel, json!({})).await.expect(202);
    let mut events = Events::open(&master, Some(&changed["id"])).await;
    assert_eq!(events.next().await.unwrap()["id"], changed["id"]);
    let missed: Value = serde_json::from_str(&events.next().await.unwrap()["data"]).unwrap();
    assert_eq!(missed["state"], "canceled");
    let mut events = Events::open(&master, Some(&begin["id"])).await;
    let from_begin = [events.next().await.unwrap(), events.next().await.unwrap()];
    assert_eq!(from_begin[1]["id"], changed["id"]);
}

#[tokio::test]
async fn a_client_that_was_away_too_long_is_told_to_look_again() {
    let master = Master::empty().await;
    for last in ["17", "no number"] {
        let mut events = Events::open(&master, Some(last)).await;
        assert_eq!(events.next().await.unwrap()["event"], "reset");
        master.post("/v1/orders", json!({ "program": "mill" })).await.expect(201);
        assert_eq!(events.next().await.unwrap()["event"], "job.changed");
    }
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let master = Master::empty().await;
    let (info, text) = master.tokens.create("wall", Role::Viewer).unwrap();
    let mut events = Events::open(&Master { admin: text, ..master.again() }, None).await;
    events.next().await.unwrap();
    master.tokens.revoke(&info.id).unwrap();
    master.post("/v1/orders", json!({ "program": "mill" })).await.expect(201);
    assert_eq!(events.next().await, None);
}
