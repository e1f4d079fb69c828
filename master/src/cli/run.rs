//! What each command of the client does.

use std::io::{BufRead as _, IsTerminal as _, Read as _};
use std::path::Path;
use std::time::Duration;

use reloop_node::digest::to_hex;
use reloop_node::entropy::random;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::args::{
    ClientArgs, Command, JobCommand, OrderCommand, Output, RestoreCommand, SlaveCommand, SubmitArgs,
    TokenCommand,
};
use super::client::{Client, Failure, escape};
use super::table::{age, at_most, heard_ago, progress, sheet, state, table, text, word};
use super::{Exit, remark, say, watch};

/// Slaves are listed whole: a factory's machines fit a screen or a pipe.
const ALL_SLAVES: u32 = 100_000;

pub(super) async fn command(args: &ClientArgs, command: Command) -> Result<Exit, Failure> {
    let client = Client::new(args)?;
    let confirms = matches!(command, Command::Restore(_));
    let done = act(&client, args.output, command).await;
    if let Some(doubt) = client.doubt().filter(|_| !confirms) {
        remark(&format!("the master may have been restored: {doubt}"));
    }
    done
}

async fn act(client: &Client, out: Output, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Order(command) => order(client, out, command).await,
        Command::Job(command) => job(client, out, command).await,
        Command::Slave(command) => slave(client, out, command).await,
        Command::Needs { limit } => needs(client, out, limit).await,
        Command::Restore(RestoreCommand::Confirm { yes, force }) => {
            let question =
                "Every slave will obey this copy of the master from here. Is the old one gone for good?";
            confirm(question, yes)?;
            let answer = client.post("/v1/master/confirm-restore", &json!({ "force": force })).await?;
            print(out, &answer, "master", |answer| {
                format!("confirmed: {} is at epoch {}\n", word(&answer["master"]), answer["epoch"])
            })
        }
        Command::Token(command) => token(client, out, command).await,
        Command::Serve(_) | Command::Help { .. } => {
            Err(Failure::new(Exit::Usage, "this is no command of the client"))
        }
    }
}

/// Prints what the master said: as it is, as the id in the named field, or by `table`.
fn print(
    out: Output,
    value: &Value,
    id: &str,
    table: impl FnOnce(&Value) -> String,
) -> Result<Exit, Failure> {
    let ids = |values: &[Value]| values.iter().map(|one| format!("{}\n", word(&one[id]))).collect::<String>();
    Ok(say(&match out {
        Output::Json => format!("{value:#}\n"),
        Output::Id => match &value["data"] {
            Value::Array(data) => ids(data),
            _ => ids(std::slice::from_ref(value)),
        },
        Output::Table => table(value),
    }))
}

fn rows(list: &Value, row: impl Fn(&Value) -> Vec<String>) -> Vec<Vec<String>> {
    list["data"].as_array().into_iter().flatten().map(row).collect()
}

/// Asks a person at a terminal; a program that runs this has decided already.
fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes || !std::io::stdin().is_terminal() {
        return Ok(());
    }
    remark(&format!("{question} [y/N]"));
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    match read {
        Ok(_) if matches!(answer.trim(), "y" | "Y" | "yes") => Ok(()),
        Ok(_) => Err(Failure::new(Exit::Error, "nothing was done")),
        Err(error) => Err(Failure::new(Exit::Error, format!("no answer: {error}; nothing was done"))),
    }
}

async fn order(client: &Client, out: Output, command: OrderCommand) -> Result<Exit, Failure> {
    match command {
        OrderCommand::Submit(args) => submit(client, out, *args).await,
        OrderCommand::Show { id } => {
            let id = client.resolve("order", "ord_", &id).await?;
            let order = client.get(&format!("/v1/orders/{id}")).await?;
            print(out, &order, "id", show_order)
        }
        OrderCommand::Ls { limit } => {
            let list = client.list("/v1/orders", "", limit).await?;
            let now = jiff::Timestamp::now();
            print(out, &list, "id", |list| {
                let row = |order: &Value| {
                    let slave = word(&order["slave"]);
                    let age = age(&order["created_at"], now);
                    let (id, name, program) =
                        (word(&order["id"]), word(&order["name"]), word(&order["program"]));
                    vec![id, name, program, word(&order["quantity"]), slave, age]
                };
                table(&["ID", "NAME", "PROGRAM", "JOBS", "FOR", "AGE"], &rows(list, row))
            })
        }
        OrderCommand::Cancel { id, mode, yes } => {
            let id = client.resolve("order", "ord_", &id).await?;
            confirm(&format!("Cancel all jobs of {id}, running ones too?"), yes)?;
            let body = json!({ "mode": mode.name() });
            let answer = client.post(&format!("/v1/orders/{id}/cancel"), &body).await?;
            print(out, &answer, "order", |answer| {
                let jobs = answer["jobs"].as_array().into_iter().flatten();
                jobs.map(|job| format!("{}  {}\n", word(&job["id"]), delivery(&job["delivery"]))).collect()
            })
        }
    }
}

async fn submit(client: &Client, out: Output, args: SubmitArgs) -> Result<Exit, Failure> {
    let body = body_of(&args)?;
    let (key, made_up) = match &args.idempotency_key {
        Some(key) => (key.clone(), false),
        None => (to_hex(&random::<16>()), true),
    };
    let headers = [("idempotency-key", key.as_str())];
    let order =
        async { client.read(client.send(Method::POST, "/v1/orders", &headers, Some(&body)).await?).await };
    let order = order.await.map_err(|mut failure| {
        if failure.exit == Exit::Unreachable {
            let words = if made_up { "the same command with" } else { "the same command again, with" };
            failure.text.push_str(&format!(
                "\n  whether the order was placed is not known; {words} --idempotency-key {key} places it once"
            ));
        }
        failure
    })?;
    let printed = print(out, &order, "id", show_order)?;
    if !args.wait || printed != Exit::Ok {
        return Ok(printed);
    }
    let ids: Vec<String> =
        order["jobs"].as_array().into_iter().flatten().map(|job| word(&job["id"])).collect();
    watch::wait(client, &ids, None).await
}

/// The file's order with the options laid over it.
fn body_of(args: &SubmitArgs) -> Result<Value, Failure> {
    let mut order = match &args.file {
        Some(file) => read_order(file)?,
        None => Map::new(),
    };
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            order.insert(key.to_owned(), value);
        }
    };
    set("program", args.program.clone().map(Value::from));
    set("name", args.name.clone().map(Value::from));
    set("slave", args.slave.clone().map(Value::from));
    set("quantity", args.quantity.map(Value::from));
    set("priority", args.priority.map(Value::from));
    let start = [
        ("not_before", args.not_before.clone().map(Value::from)),
        ("deadline", args.deadline.clone().map(Value::from)),
        ("hold", args.hold.then_some(Value::Bool(true))),
    ];
    let pairs = |pairs: &[(String, String)]| -> Vec<(String, Option<Value>)> {
        pairs.iter().map(|(name, value)| (name.clone(), Some(Value::from(value.clone())))).collect()
    };
    let start = start.map(|(name, value)| (name.to_owned(), value)).to_vec();
    for (key, entries) in
        [("start", start), ("params", pairs(&args.param)), ("requires", pairs(&args.require))]
    {
        for (name, value) in entries.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            let object = order.entry(key).or_insert_with(|| json!({}));
            let Some(object) = object.as_object_mut() else {
                return Err(Failure::new(Exit::Usage, format!("/{key} in the file is no object")));
            };
            object.insert(name, value);
        }
    }
    Ok(Value::Object(order))
}

fn read_order(file: &Path) -> Result<Map<String, Value>, Failure> {
    let usage =
        |error: &dyn std::fmt::Display| Failure::new(Exit::Usage, format!("{}: {error}", file.display()));
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map_err(|error| usage(&error))?;
    } else {
        text = std::fs::read_to_string(file).map_err(|error| usage(&error))?;
    }
    serde_json::from_str(&text).map_err(|error| usage(&error))
}

fn show_order(order: &Value) -> String {
    let now = jiff::Timestamp::now();
    let head = sheet(&[
        ("order", word(&order["id"])),
        ("name", text(&order["name"])),
        ("program", word(&order["program"])),
        ("params", pairs(&order["params"])),
        ("for", text(&order["slave"])),
        ("placed", word(&order["created_at"])),
    ]);
    let list = json!({ "data": order["jobs"] });
    format!("{head}\n{}", job_table(&list, now))
}

fn pairs(map: &Value) -> String {
    let pairs = map.as_object().into_iter().flatten();
    pairs
        .map(|(name, value)| format!("{}={}", super::table::clean(name), word(value)))
        .collect::<Vec<_>>()
        .join(" ")
}

fn job_table(list: &Value, now: jiff::Timestamp) -> String {
    let row = |job: &Value| {
        vec![
            word(&job["id"]),
            word(&job["name"]),
            word(&job["program"]),
            state(job, now),
            progress(job),
            word(&job["slave"]),
            age(&job["created_at"], now),
        ]
    };
    table(&["ID", "NAME", "PROGRAM", "STATE", "PROGRESS", "SLAVE", "AGE"], &rows(list, row))
}

async fn job(client: &Client, out: Output, command: JobCommand) -> Result<Exit, Failure> {
    let find = async |part: &str| client.resolve("job", "job_", part).await;
    let (id, verb, body) = match command {
        JobCommand::Ls { state, slave, order, limit } => {
            let mut query = String::new();
            let order = match order {
                Some(order) => Some(client.resolve("order", "ord_", &order).await?),
                None => None,
            };
            for (name, value) in [("state", state), ("slave", slave), ("order", order)] {
                query.extend(value.map(|value| format!("&{name}={}", escape(&value))));
            }
            let list = client.list("/v1/jobs", &query, limit).await?;
            return print(out, &list, "id", |list| job_table(list, jiff::Timestamp::now()));
        }
        JobCommand::Show(job) => {
            let id = find(&job.id).await?;
            let job = client.get(&format!("/v1/jobs/{id}")).await?;
            return print(out, &job, "id", show_job);
        }
        JobCommand::Watch(job) => return watch::watch(client, out, &find(&job.id).await?).await,
        JobCommand::Wait { ids: parts, timeout } => {
            let mut ids = Vec::new();
            for part in &parts {
                ids.push(find(part).await?);
            }
            return watch::wait(client, &ids, timeout.map(Duration::from_secs)).await;
        }
        JobCommand::Log { job, offset, limit, follow } => {
            return watch::log(client, &find(&job.id).await?, offset, limit, follow).await;
        }
        JobCommand::Explain(job) => {
            let id = find(&job.id).await?;
            let answer = client.get(&format!("/v1/jobs/{id}/explain")).await?;
            return print(out, &answer, "job", |answer| {
                let list = json!({ "data": answer["slaves"] });
                let row = |slave: &Value| {
                    let why = slave["why_not"].as_str().unwrap_or("(could take it)");
                    vec![word(&slave["slave"]), why.to_owned()]
                };
                format!("{}\n\n{}", word(&answer["summary"]), table(&["SLAVE", "WHY NOT"], &rows(&list, row)))
            });
        }
        JobCommand::Events(job) => {
            let id = find(&job.id).await?;
            let list = client.get(&format!("/v1/jobs/{id}/events")).await?;
            return print(out, &list, "state", |list| {
                let row = |event: &Value| {
                    let (at, observed) = (word(&event["at"]), word(&event["observed_at"]));
                    vec![at, word(&event["state"]), word(&event["attempt"]), word(&event["by"]), observed]
                };
                table(&["AT", "STATE", "ATTEMPT", "BY", "OBSERVED"], &rows(list, row))
            });
        }
        JobCommand::Cancel { job, mode, yes } => {
            let id = find(&job.id).await?;
            if !yes && std::io::stdin().is_terminal() {
                let now = client.get(&format!("/v1/jobs/{id}")).await?;
                if !now["started_at"].is_null() && now["ended_at"].is_null() {
                    confirm(&format!("{id} is {}. Cancel it?", word(&now["state"])), false)?;
                }
            }
            (id, "cancel", json!({ "mode": mode.name() }))
        }
        JobCommand::Pause(job) => (find(&job.id).await?, "pause", json!({})),
        JobCommand::Resume(job) => (find(&job.id).await?, "resume", json!({})),
        JobCommand::Release { job, valid } => {
            (find(&job.id).await?, "release", json!({ "valid_seconds": valid }))
        }
        JobCommand::Reschedule { job, not_before, deadline, late } => {
            let window = [("not_before", not_before), ("deadline", deadline), ("late", late)];
            let given = window.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into())));
            (find(&job.id).await?, "reschedule", Value::Object(given.collect()))
        }
        JobCommand::Retry(job) => (find(&job.id).await?, "retry", json!({})),
        JobCommand::Resolve { job, outcome } => {
            (find(&job.id).await?, "resolve", json!({ "outcome": outcome.name() }))
        }
        JobCommand::Abandon { job, yes } => {
            let id = find(&job.id).await?;
            confirm(
                &format!("Give {id} up? Its outcome will not be known, and the machine may still run."),
                yes,
            )?;
            (id, "abandon", json!({}))
        }
    };
    let answer = client.post(&format!("/v1/jobs/{id}/{verb}"), &body).await?;
    print(out, &answer, "job", |answer| {
        format!("{id} {verb}: {}; it is {}\n", delivery(&answer["delivery"]), word(&answer["state"]))
    })
}

/// How far a command got, in words.
fn delivery(delivery: &Value) -> String {
    match delivery.as_str() {
        Some("applied") => "done".to_owned(),
        Some("sent") => "sent to the slave".to_owned(),
        Some("pending_on_reconnect") => {
            "the slave is offline and gets it when it is back; the machine may still run".to_owned()
        }
        Some("too_late") => "too late".to_owned(),
        _ => word(delivery),
    }
}

fn show_job(job: &Value) -> String {
    let now = jiff::Timestamp::now();
    let flags: Vec<String> = job["flags"].as_array().into_iter().flatten().map(word).collect();
    let reason = match job["reason"]["code"].as_str() {
        Some(code) => format!("{code}: {}", text(&job["reason"]["text"])),
        None => String::new(),
    };
    let outcome = &job["outcome"];
    let numbers = [("exit code", &outcome["exit_code"]), ("signal", &outcome["signal"])];
    let numbers = numbers.into_iter().filter(|(_, value)| !value.is_null());
    let mut ended: Vec<String> = numbers.map(|(name, value)| format!("{name} {value}")).collect();
    ended.extend(outcome["text"].as_str().filter(|text| !text.is_empty()).map(super::table::clean));
    let heard = match job["freshness"]["link"].as_str() {
        Some(link) => {
            let freshness = &job["freshness"];
            format!("{link}, heard {}", heard_ago(&freshness["observed_at"], &freshness["at_least"], now))
        }
        None => String::new(),
    };
    let mut shown = sheet(&[
        ("job", word(&job["id"])),
        ("order", word(&job["order"])),
        ("name", text(&job["name"])),
        ("program", word(&job["program"])),
        ("params", pairs(&job["params"])),
        ("state", state(job, now)),
        ("desired", word(&job["desired"])),
        ("reason", reason),
        ("flags", flags.join(" ")),
        ("progress", progress(job)),
        ("note", text(&job["note"])),
        ("slave", text(&job["slave"])),
        ("its link", heard),
        ("attempt", word(&job["attempt"])),
        ("gate", word(&job["gate"])),
        ("not before", text(&job["not_before"])),
        ("deadline", text(&job["deadline"])),
        ("created", word(&job["created_at"])),
        ("accepted", text(&job["accepted_at"])),
        ("started", text(&job["started_at"])),
        ("ended", text(&job["ended_at"])),
        ("outcome", ended.join(", ")),
    ]);
    for earlier in job["earlier"].as_array().into_iter().flatten() {
        let (attempt, slave) = (&earlier["attempt"], word(&earlier["slave"]));
        let claimed = earlier["claimed"] == json!(true);
        let claimed = if claimed { " (it says so, and was never handed it)" } else { "" };
        shown.push_str(&format!("attempt {attempt} on {slave}: {}{claimed}\n", word(&earlier["state"])));
    }
    shown
}

async fn slave(client: &Client, out: Output, command: SlaveCommand) -> Result<Exit, Failure> {
    let (name, verb, body) = match command {
        SlaveCommand::Ls => {
            let list = client.list("/v1/slaves", "", ALL_SLAVES).await?;
            return print(out, &list, "name", |list| {
                let now = jiff::Timestamp::now();
                let row = |slave: &Value| {
                    let jobs = slave["jobs"].as_array().map_or(0, Vec::len).to_string();
                    let seen = at_most(&slave["last_contact_at"], &slave["last_contact_at_least"], now);
                    let axes = ["name", "status", "link", "mode", "activity"].map(|axis| word(&slave[axis]));
                    axes.into_iter().chain([jobs, seen]).collect()
                };
                table(&["NAME", "STATUS", "LINK", "MODE", "ACTIVITY", "JOBS", "LAST-SEEN"], &rows(list, row))
            });
        }
        SlaveCommand::Show(slave) => {
            let slave = client.get(&format!("/v1/slaves/{}", escape(&slave.name))).await?;
            return print(out, &slave, "name", show_slave);
        }
        SlaveCommand::Receipts(slave) => {
            let list = client.get(&format!("/v1/slaves/{}/receipts", escape(&slave.name))).await?;
            return print(out, &list, "number", show_receipts);
        }
        SlaveCommand::EnrollToken { name, ttl, uses } => {
            let mut body = json!({ "ttl_seconds": ttl, "uses": uses });
            if let Some(name) = name {
                body["name"] = Value::from(name);
            }
            let answer = client.post("/v1/enroll-tokens", &body).await?;
            return print(out, &answer, "token", |answer| {
                remark(&format!("It holds until {} and is shown this once.", word(&answer["expires_at"])));
                format!("{}\n", word(&answer["token"]))
            });
        }
        SlaveCommand::Ready(slave) => (slave.name, "ready", json!({})),
        SlaveCommand::Clear(slave) => (slave.name, "clear", json!({})),
        SlaveCommand::Approve(slave) => (slave.name, "approve", json!({})),
        SlaveCommand::Mode { slave, mode, reason } => {
            let mut body = json!({ "mode": mode });
            if let Some(reason) = reason {
                body["reason"] = Value::from(reason);
            }
            (slave.name, "mode", body)
        }
        SlaveCommand::Forget { slave, yes } => {
            let question = format!("Revoke the key of {}? What it holds stays with it.", slave.name);
            confirm(&question, yes)?;
            (slave.name, "forget", json!({}))
        }
    };
    let answer = client.post(&format!("/v1/slaves/{}/{verb}", escape(&name)), &body).await?;
    print(out, &answer, "slave", |answer| {
        format!("{} {verb}: {}\n", word(&answer["slave"]), delivery(&answer["delivery"]))
    })
}

fn show_slave(slave: &Value) -> String {
    let now = jiff::Timestamp::now();
    let list = |value: &Value| value.as_array().into_iter().flatten().map(word).collect::<Vec<_>>().join(" ");
    let flag = |name: &str| slave[name] == true;
    let mode = if flag("mode_pending") { " (not confirmed by the slave)" } else { "" };
    let marks = ["local_lock", "cloned", "doubts"]
        .into_iter()
        .filter(|name| flag(name))
        .collect::<Vec<_>>()
        .join(" ");
    sheet(&[
        ("slave", word(&slave["name"])),
        ("key", word(&slave["key"])),
        ("enrolled", word(&slave["enrolled"])),
        ("status", word(&slave["status"])),
        ("link", word(&slave["link"])),
        ("mode", format!("{}{mode}", word(&slave["mode"]))),
        ("activity", word(&slave["activity"])),
        ("attention", text(&slave["attention"]["text"])),
        ("unloading", text(&slave["unloading"])),
        ("uncertain", text(&slave["uncertain"])),
        ("marks", marks),
        ("last seen", heard_ago(&slave["last_contact_at"], &slave["last_contact_at_least"], now)),
        ("session", word(&slave["session"])),
        ("programs", list(&slave["programs"])),
        ("labels", pairs(&slave["labels"])),
        ("capacity", word(&slave["capacity"])),
        ("jobs", list(&slave["jobs"])),
        ("clock", format!("{} ms off the master's", slave["clock_offset_ms"])),
        ("agent", word(&slave["agent_version"])),
    ])
}

fn show_receipts(list: &Value) -> String {
    let mut shown = Vec::new();
    for receipt in list["data"].as_array().into_iter().flatten() {
        let head = [word(&receipt["at"]), word(&receipt["session"]), word(&receipt["store"])];
        let lines = receipt["lines"].as_array().map(Vec::as_slice).unwrap_or_default();
        if lines.is_empty() {
            shown.push(head.iter().cloned().chain(["-", "-", "-", "-", "-"].map(str::to_owned)).collect());
        }
        for line in lines {
            let cells = ["job", "master", "slave", "line", "verdict"].map(|cell| word(&line[cell]));
            shown.push(head.iter().cloned().chain(cells).collect());
        }
    }
    table(&["AT", "SESSION", "STORE", "JOB", "MASTER", "SLAVE", "LINE", "VERDICT"], &shown)
}

async fn needs(client: &Client, out: Output, limit: u32) -> Result<Exit, Failure> {
    let list = client.list("/v1/needs", "", limit).await?;
    let who = |need: &Value| if need["job"].is_null() { word(&need["slave"]) } else { word(&need["job"]) };
    let all = list["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    if out == Output::Id {
        return Ok(say(&all.iter().map(|need| format!("{}\n", who(need))).collect::<String>()));
    }
    if all.is_empty() && out == Output::Table {
        remark("nothing needs a person");
    }
    let shown = print(out, &list, "job", |_| {
        let entry = |need: &Value| {
            let at = need["job"].as_str().and(need["slave"].as_str()).map(|slave| format!(" at {slave}"));
            let (at, text) = (at.map(|at| super::table::clean(&at)).unwrap_or_default(), word(&need["text"]));
            let (command, risk) = (word(&need["command"]), word(&need["risk"]));
            format!("{}{at}: {text}\n  {command}\n  risk: {risk}\n", who(need))
        };
        all.iter().map(entry).collect()
    })?;
    if !list["next_cursor"].is_null() && out == Output::Table {
        let counts = client.get("/v1/counts").await?;
        remark(&format!("{} of {}: --limit shows more", all.len(), counts["needs"]));
    }
    Ok(shown)
}

async fn token(client: &Client, out: Output, command: TokenCommand) -> Result<Exit, Failure> {
    match command {
        TokenCommand::Create { name, role } => {
            let answer = client.post("/v1/tokens", &json!({ "name": name, "role": role })).await?;
            print(out, &answer, "id", |answer| {
                remark(&format!("{} is shown this once:", word(&answer["id"])));
                format!("{}\n", word(&answer["token"]))
            })
        }
        TokenCommand::Ls => {
            let list = client.get("/v1/tokens").await?;
            print(out, &list, "id", |list| {
                let row = |token: &Value| {
                    ["id", "name", "role", "created_at"].map(|cell| word(&token[cell])).to_vec()
                };
                table(&["ID", "NAME", "ROLE", "CREATED"], &rows(list, row))
            })
        }
        TokenCommand::Revoke { id } => {
            client.json(Method::DELETE, &format!("/v1/tokens/{}", escape(&id)), None).await?;
            remark(&format!("{id} is worth nothing any more"));
            Ok(Exit::Ok)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::args::Args;
    use super::*;

    fn body(args: &[&str]) -> Value {
        let args = ["reloop", "order", "submit"].iter().chain(args);
        match Args::try_parse_from(args).unwrap().command {
            Command::Order(OrderCommand::Submit(args)) => body_of(&args).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_make_an_order() {
        let args =
            ["--program", "mill", "--param", "file=a.nc", "--quantity", "2", "--hold", "--deadline", "x"];
        let expected = json!({
            "program": "mill", "params": {"file": "a.nc"}, "quantity": 2, "start": {"hold": true, "deadline": "x"},
        });
        assert_eq!(body(&args), expected);
    }

    #[test]
    fn options_are_laid_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("order.json");
        std::fs::write(&file, r#"{"program": "mill", "params": {"file": "a.nc", "speed": "1"}}"#).unwrap();
        let body = body(&["-f", file.to_str().unwrap(), "--param", "speed=2", "--slave", "mill-3"]);
        let expected = json!({
            "program": "mill", "params": {"file": "a.nc", "speed": "2"}, "slave": "mill-3",
        });
        assert_eq!(body, expected);
    }
}
