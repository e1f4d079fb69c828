//! The document says what there is: neither more nor less.

use std::collections::BTreeSet;

use reloop_api::limits::{PAGE_DEFAULT, PAGE_LIMIT};

use super::*;

/// What an old client may rely on: method, path and role. Only added to.
const ROUTES: [(&str, &str, &str); 40] = [
    ("GET", "/", "everybody"),
    ("GET", "/assets/app.css", "everybody"),
    ("GET", "/assets/app.js", "everybody"),
    ("GET", "/livez", "everybody"),
    ("GET", "/metrics", "metrics"),
    ("GET", "/readyz", "everybody"),
    ("GET", "/v1/counts", "viewer"),
    ("POST", "/v1/enroll-tokens", "admin"),
    ("GET", "/v1/events", "viewer"),
    ("GET", "/v1/jobs", "viewer"),
    ("GET", "/v1/jobs/{id}", "viewer"),
    ("POST", "/v1/jobs/{id}/abandon", "operator"),
    ("POST", "/v1/jobs/{id}/cancel", "client"),
    ("GET", "/v1/jobs/{id}/events", "viewer"),
    ("GET", "/v1/jobs/{id}/explain", "viewer"),
    ("GET", "/v1/jobs/{id}/log", "viewer"),
    ("POST", "/v1/jobs/{id}/pause", "client"),
    ("POST", "/v1/jobs/{id}/release", "client"),
    ("POST", "/v1/jobs/{id}/reschedule", "operator"),
    ("POST", "/v1/jobs/{id}/resolve", "operator"),
    ("POST", "/v1/jobs/{id}/resume", "client"),
    ("POST", "/v1/jobs/{id}/retry", "operator"),
    ("POST", "/v1/master/confirm-restore", "admin"),
    ("GET", "/v1/needs", "viewer"),
    ("GET", "/v1/openapi.json", "viewer"),
    ("GET", "/v1/orders", "viewer"),
    ("POST", "/v1/orders", "client"),
    ("GET", "/v1/orders/{id}", "viewer"),
    ("POST", "/v1/orders/{id}/cancel", "client"),
    ("GET", "/v1/slaves", "viewer"),
    ("GET", "/v1/slaves/{name}", "viewer"),
    ("POST", "/v1/slaves/{name}/approve", "operator"),
    ("POST", "/v1/slaves/{name}/clear", "operator"),
    ("POST", "/v1/slaves/{name}/forget", "admin"),
    ("POST", "/v1/slaves/{name}/mode", "operator"),
    ("POST", "/v1/slaves/{name}/ready", "operator"),
    ("GET", "/v1/slaves/{name}/receipts", "viewer"),
    ("GET", "/v1/tokens", "admin"),
    ("POST", "/v1/tokens", "admin"),
    ("DELETE", "/v1/tokens/{id}", "admin"),
];

/// A schema with its reference followed, and its parts put together.
fn resolved(document: &Value, schema: &Value) -> Value {
    if let Some(target) = schema["$ref"].as_str() {
        let target = document.pointer(&target[1..]).unwrap_or_else(|| panic!("{target} leads nowhere"));
        return resolved(document, target);
    }
    let Some(parts) = schema["allOf"].as_array() else { return schema.clone() };
    let mut whole = json!({ "type": "object", "properties": {}, "required": [] });
    for part in parts {
        let mut part = resolved(document, part);
        whole["properties"].as_object_mut().unwrap().append(part["properties"].as_object_mut().unwrap());
        whole["required"].as_array_mut().unwrap().append(part["required"].as_array_mut().unwrap());
    }
    whole
}

/// A value has exactly the fields of its schema, and of the right types.
fn check(document: &Value, schema: &Value, value: &Value, at: &str) {
    let schema = &resolved(document, schema);
    if let Some(choices) = schema["oneOf"].as_array() {
        let fits = |choice: &&Value| (choice["type"] == "null") == value.is_null();
        return check(document, choices.iter().find(fits).unwrap(), value, at);
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let allowed = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().any(|allowed| allowed == kind),
        allowed => allowed == kind,
    };
    assert!(allowed, "{at} is {kind}, and its schema says {}", schema["type"]);
    if let Some(words) = schema["enum"].as_array() {
        assert!(words.contains(value), "{at}: {value} is not in {words:?}");
    }
    for (n, item) in value.as_array().into_iter().flatten().enumerate() {
        check(document, &schema["items"], item, &format!("{at}/{n}"));
    }
    if let (Some(map), Some(properties)) = (value.as_object(), schema["properties"].as_object()) {
        let fields: Vec<_> = map.keys().collect();
        let named: Vec<_> = properties.keys().collect();
        assert_eq!(fields, named, "{at}");
        let required: BTreeSet<_> =
            schema["required"].as_array().into_iter().flatten().map(Value::as_str).collect();
        assert!(at == "Problem" || required.len() == fields.len(), "{at}: {required:?} of {fields:?}");
        for (name, value) in map {
            check(document, &properties[name], value, &format!("{at}/{name}"));
        }
    }
}

/// Every operation of the document with its method and path.
fn operations(document: &Value) -> Vec<(String, String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let of_path = |(path, item)| {
        let item: &Value = item;
        let path: &String = path;
        item.as_object()
            .unwrap()
            .iter()
            .map(|(method, operation)| (method.to_uppercase(), path.clone(), operation))
    };
    paths.iter().flat_map(of_path).collect()
}

#[test]
fn the_routes_are_those_that_clients_rely_on() {
    let mut found: Vec<_> = routes()
        .iter()
        .map(|route| {
            let role = match route.access {
                Access::Everybody => "everybody",
                Access::Metrics => "metrics",
                Access::From(role) => role.name(),
            };
            (route.method.to_string(), route.path.clone(), role)
        })
        .collect();
    found.sort_by(|one, other| (&one.1, &one.0).cmp(&(&other.1, &other.0)));
    let expected = ROUTES.map(|(method, path, role)| (method.to_owned(), path.to_owned(), role));
    assert_eq!(found, expected);
}

#[test]
fn every_route_is_described_with_what_it_takes_and_gives() {
    let document = crate::rest::document::document();
    let described = operations(&document);
    for route in routes() {
        let (method, path) = (route.method.as_str(), route.path.as_str());
        let operation = described.iter().find(|(m, p, _)| m == method && p == path);
        let (_, _, operation) = operation.unwrap_or_else(|| panic!("no words for {method} {path}"));
        let has = |field: &str| operation[field].as_str().is_some_and(|text| !text.is_empty());
        assert!(has("summary") && has("operationId"), "{method} {path}");
        assert_eq!(
            operation["x-role"].is_string(),
            matches!(route.access, Access::From(_)),
            "{method} {path}"
        );
        let is_open = operation["security"].as_array().unwrap().is_empty();
        assert_eq!(is_open, route.access == Access::Everybody, "{method} {path}");
        assert_eq!(operation["responses"]["default"].is_object(), !is_open, "{method} {path}");
        assert_eq!(
            operation["requestBody"].is_object(),
            method == "POST",
            "{method} {path}: a POST has a body"
        );
        let success =
            operation["responses"].as_object().unwrap().iter().find(|(status, _)| status.starts_with('2'));
        let (_, success) = success.unwrap_or_else(|| panic!("{method} {path} never succeeds"));
        assert!(!success["description"].as_str().unwrap().is_empty(), "{method} {path}");
        assert_eq!(success["content"].is_object(), method != "DELETE", "{method} {path}");
        let in_path: BTreeSet<_> =
            path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let named: BTreeSet<_> = parameters
            .iter()
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        assert_eq!(in_path, named, "{method} {path}");
    }
    let ids: BTreeSet<_> =
        described.iter().map(|(_, _, operation)| operation["operationId"].as_str()).collect();
    assert_eq!(ids.len(), described.len(), "an operation's id is its own");
}

#[tokio::test]
async fn every_path_takes_the_methods_that_are_described() {
    let master = Master::empty().await;
    let document = master.get("/v1/openapi.json").await.expect(200);
    let admin = [("authorization", &*format!("Bearer {}", master.admin))];
    let mut described: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (method, path, _) in operations(&document) {
        let methods = described.entry(path).or_default();
        if method == "GET" {
            methods.insert("HEAD".to_owned());
        }
        methods.insert(method);
    }
    for (path, methods) in described {
        let path = path.replace("{id}", "none").replace("{name}", "none");
        let refused = master.ask("PATCH", &path, &admin, "").await;
        refused.problem(405, "method_not_allowed");
        let allowed =
            refused.headers["allow"].to_str().unwrap().split(',').map(|method| method.trim().to_owned());
        assert_eq!(allowed.collect::<BTreeSet<_>>(), methods, "{path}");
    }
}

fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(target) if key == "$ref" => found.push(target),
                    value => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_schema_is_used() {
    let document = crate::rest::document::document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50);
    for target in &found {
        assert!(document.pointer(target.strip_prefix('#').unwrap()).is_some(), "{target}");
    }
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        assert!(found.iter().any(|target| target.ends_with(&format!("/{name}"))), "{name}");
    }
}

#[test]
fn a_page_is_described_with_its_limits() {
    let document = crate::rest::document::document();
    for (_, path, operation) in operations(&document) {
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let parameters: BTreeMap<_, _> =
            parameters.map(|one| (one["name"].as_str().unwrap(), &one["schema"])).collect();
        if parameters.contains_key("cursor") {
            let expected = json!([1, PAGE_LIMIT, PAGE_DEFAULT]);
            let limit = parameters["limit"];
            assert_eq!(json!([limit["minimum"], limit["maximum"], limit["default"]]), expected, "{path}");
        }
    }
}

#[test]
fn every_problem_code_can_be_looked_up() {
    let document = crate::rest::document::document();
    assert_eq!(document["openapi"], "3.1.0");
    for code in Code::ALL {
        let pointer = format!("/x-problem-codes/{}/title", code.name());
        assert_eq!(document.pointer(&pointer), Some(&Value::from(code.title())));
    }
}

/// What is wrong with a body, by field; an unknown field is added, so that it is never granted.
async fn wrong(master: &Master, path: &str, mut body: Value) -> BTreeMap<String, String> {
    body["?"] = json!(1);
    let problem = master.post(path, body).await.expect(400);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let errors = problem["errors"].as_array().unwrap().iter();
    errors.map(|error| (text(&error["field"]), text(&error["detail"]))).collect()
}

/// A body takes the fields of its schema and no others, within the limits that this says.
#[tokio::test]
async fn bodies_are_taken_as_the_document_describes_them() {
    let master = Master::empty().await;
    let document = master.get("/v1/openapi.json").await.expect(200);
    let (mut bodies, mut limits, mut examples) = (0, 0, 0);
    for (_, path, operation) in operations(&document).into_iter().filter(|(method, ..)| method == "POST") {
        let body = &operation["requestBody"];
        let schema = resolved(&document, &body["content"]["application/json"]["schema"]);
        let path = path.replace("{id}", "none").replace("{name}", "none");
        let allowed = |errors: &BTreeMap<String, String>, at: &str| {
            let words = errors[&format!("{at}/?")].split_once("allowed: ").unwrap().1.to_owned();
            words.split(", ").filter(|word| *word != "none are").map(ToOwned::to_owned).collect::<Vec<_>>()
        };
        let named = |schema: &Value| -> Vec<String> {
            assert_eq!(schema["additionalProperties"], false, "{path}");
            schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
        };
        for example in schema["examples"].as_array().into_iter().flatten() {
            assert_eq!(master.post(&path, example.clone()).await.status, 201, "{path}: {example}");
            examples += 1;
        }
        let errors = wrong(&master, &path, json!({})).await;
        assert_eq!(allowed(&errors, ""), named(&schema), "{path}");
        let required = schema["required"].as_array().into_iter().flatten();
        let required: BTreeSet<_> = required.map(|name| format!("/{}", name.as_str().unwrap())).collect();
        assert_eq!(body["required"].as_bool().unwrap(), !required.is_empty(), "{path}");
        let missing: BTreeSet<_> = errors.into_keys().filter(|at| at != "/?").collect();
        assert_eq!(missing, required, "{path}");
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let (field, at) = (resolved(&document, field), format!("/{name}"));
            let is_wrong = async |value: Value| {
                wrong(&master, &path, json!({ name.as_str(): value })).await.contains_key(&at)
            };
            if field["properties"].is_object() {
                let errors = wrong(&master, &path, json!({ name.as_str(): { "?": 1 } })).await;
                assert_eq!(allowed(&errors, &at), named(&field), "{path} {name}");
            }
            if let Some(most) = field["maximum"].as_i64() {
                assert!(is_wrong(json!(most + 1)).await && !is_wrong(json!(most)).await, "{path} {name}");
                let least = field["minimum"].as_i64().unwrap();
                assert!(is_wrong(json!(least - 1)).await && !is_wrong(json!(least)).await, "{path} {name}");
                limits += 1;
            }
            if let Some(most) = field["maxLength"].as_u64().and_then(|most| usize::try_from(most).ok()) {
                assert!(is_wrong(json!("x".repeat(most + 1))).await, "{path} {name}");
                assert!(!is_wrong(json!("x".repeat(most))).await, "{path} {name}");
                limits += 1;
            }
            if let Some(words) = field["enum"].as_array() {
                assert!(is_wrong(json!("?")).await, "{path} {name}");
                for word in words {
                    assert!(!is_wrong(word.clone()).await, "{path} {name}: {word}");
                }
                limits += 1;
            }
            if let Some(most) = field["maxProperties"].as_u64() {
                let texts = |count: u64| {
                    (0..count).map(|n| (n.to_string(), json!("x"))).collect::<serde_json::Map<_, _>>()
                };
                assert!(is_wrong(texts(most + 1).into()).await, "{path} {name}");
                assert!(!is_wrong(texts(most).into()).await, "{path} {name}");
                limits += 1;
            }
        }
        bodies += 1;
    }
    assert!(
        bodies == 18 && limits > 15 && examples > 0,
        "{bodies} bodies with {limits} limits and {examples} examples"
    );
}

#[tokio::test]
async fn what_is_shown_is_what_the_document_says() {
    let (id, records) = away(JobState::Uncertain);
    let master = Master::start(records).await;
    let document = master.get("/v1/openapi.json").await.expect(200);
    let id = id.to_string();
    let placed = master
        .place(json!({ "program": "mill", "retry": { "max_attempts": 2, "on": ["failed"] } }), "k")
        .await;
    let document_of = |name: &str| document["components"]["schemas"][name].clone();
    for (schema, value) in [
        ("Order", placed.expect(201)),
        ("OrderPage", master.get("/v1/orders").await.expect(200)),
        ("Job", master.job(&json!(id)).await),
        ("JobPage", master.get("/v1/jobs").await.expect(200)),
        ("JobEventPage", master.get(&format!("/v1/jobs/{id}/events")).await.expect(200)),
        ("Explanation", master.get(&format!("/v1/jobs/{id}/explain")).await.expect(200)),
        ("SlavePage", master.get("/v1/slaves").await.expect(200)),
        ("NeedPage", master.get("/v1/needs").await.expect(200)),
        ("Counts", master.get("/v1/counts").await.expect(200)),
        (
            "SlaveCommand",
            master.post("/v1/slaves/mill-3/mode", json!({ "mode": "draining" })).await.expect(202),
        ),
        ("ReceiptPage", master.get("/v1/slaves/mill-3/receipts").await.expect(200)),
        ("JobCommand", master.post(&format!("/v1/jobs/{id}/abandon"), json!({})).await.expect(202)),
        ("JobCommand", master.post(&format!("/v1/jobs/{id}/retry"), json!({})).await.expect(202)),
        ("Job", master.job(&json!(id)).await),
        ("EnrollToken", master.post("/v1/enroll-tokens", json!({})).await.expect(201)),
        ("NewToken", master.post("/v1/tokens", json!({ "name": "x", "role": "client" })).await.expect(201)),
        ("TokenPage", master.get("/v1/tokens").await.expect(200)),
        ("Restored", master.post("/v1/master/confirm-restore", json!({ "force": true })).await.expect(200)),
    ] {
        check(&document, &document_of(schema), &value, schema);
    }
    let canceled = format!("/v1/orders/{}/cancel", placed.json()["id"].as_str().unwrap());
    check(
        &document,
        &document_of("OrderCommand"),
        &master.post(&canceled, json!({})).await.expect(202),
        "OrderCommand",
    );
    let problem = master.post("/v1/orders", json!({})).await.problem(400, "bad_request");
    check(&document, &document_of("Problem"), &problem, "Problem");
}
