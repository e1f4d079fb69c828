//! Places, lists and cancels orders.

use std::io::Read as _;
use std::path::Path;

use reloop_api::{CancelRequest, Order, OrderCommand as Canceled, OrderIds, header};
use reloop_node::entropy::random;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{confirm, delivery, job, pairs, print, print_list};
use crate::cli::args::{OrderCommand, Output, SubmitArgs};
use crate::cli::client::{Client, Failure};
use crate::cli::table::{age, clean, or_dash, or_nothing, sheet, table};
use crate::cli::{Exit, watch};
use reloop_node::digest::to_hex;

pub(super) async fn run(client: &Client, out: Output, command: OrderCommand) -> Result<Exit, Failure> {
    match command {
        OrderCommand::Submit(args) => submit(client, out, *args).await,
        OrderCommand::Show { id } => {
            let id = client.resolve("order", "ord_", &id).await?;
            let order = client.get(&format!("/v1/orders/{id}")).await?;
            print(out, &order, |order: &Order| order.placed.id.clone(), show)
        }
        OrderCommand::Ls { limit } => {
            let list = client.list("/v1/orders", "", limit).await?;
            let now = jiff::Timestamp::now();
            print_list(
                out,
                &list,
                |order: &OrderIds| order.placed.id.clone(),
                |orders| {
                    let row = |order: &OrderIds| {
                        let order = &order.placed;
                        let (id, name, program) =
                            (clean(&order.id), or_dash(order.name.as_deref()), clean(&order.program));
                        let slave = or_dash(order.slave.as_deref());
                        let age = age(Some(&order.created_at), now);
                        vec![id, name, program, order.quantity.to_string(), slave, age]
                    };
                    let rows: Vec<_> = orders.iter().map(row).collect();
                    table(&["ID", "NAME", "PROGRAM", "JOBS", "FOR", "AGE"], &rows)
                },
            )
        }
        OrderCommand::Cancel { id, mode, yes } => {
            let id = client.resolve("order", "ord_", &id).await?;
            confirm(&format!("Cancel all jobs of {id}, running ones too?"), yes)?;
            let request = CancelRequest { mode: Some(mode.name().into()) };
            let answer = client.post(&format!("/v1/orders/{id}/cancel"), &request).await?;
            print(
                out,
                &answer,
                |canceled: &Canceled| canceled.order.clone(),
                |canceled| {
                    let jobs = canceled.jobs.iter();
                    jobs.map(|job| format!("{}  {}\n", clean(&job.id), delivery(&job.delivery))).collect()
                },
            )
        }
    }
}

async fn submit(client: &Client, out: Output, args: SubmitArgs) -> Result<Exit, Failure> {
    let body = body_of(&args)?;
    let (key, made_up) = match &args.idempotency_key {
        Some(key) => (key.clone(), false),
        None => (to_hex(&random::<16>()), true),
    };
    let headers = [(header::IDEMPOTENCY_KEY, key.as_str())];
    let placed =
        async { client.answer(client.send(Method::POST, "/v1/orders", &headers, Some(&body)).await?).await };
    let placed = placed.await.map_err(|mut failure| {
        if failure.exit == Exit::Unreachable {
            let words = if made_up { "the same command with" } else { "the same command again, with" };
            failure.text.push_str(&format!(
                "\n  whether the order was placed is not known; {words} --idempotency-key {key} places it once"
            ));
        }
        failure
    })?;
    let printed = print(out, &placed, |order: &Order| order.placed.id.clone(), show)?;
    if !args.wait || printed != Exit::Ok {
        return Ok(printed);
    }
    let ids: Vec<String> = placed.read::<Order>()?.jobs.into_iter().map(|job| job.id).collect();
    watch::wait(client, &ids, None).await
}

/// The file's order with the options laid over it. What the file says is sent as it is: the master names everything that
/// is wrong with it.
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

fn show(order: &Order) -> String {
    let placed = &order.placed;
    let head = sheet(&[
        ("order", clean(&placed.id)),
        ("name", or_nothing(placed.name.as_deref())),
        ("program", clean(&placed.program)),
        ("params", pairs(&placed.params)),
        ("for", or_nothing(placed.slave.as_deref())),
        ("placed", clean(&placed.created_at)),
    ]);
    format!("{head}\n{}", job::table_of(&order.jobs, jiff::Timestamp::now()))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::args::{Args, Command};

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
