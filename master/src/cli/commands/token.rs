//! Makes, lists and revokes clients' tokens.

use reloop_api::{NewToken, Token, TokenRequest};
use reqwest::Method;

use super::{print, print_list};
use crate::cli::args::{Output, TokenCommand};
use crate::cli::client::{Client, Failure, escape};
use crate::cli::table::{clean, table};
use crate::cli::{Exit, remark};

pub(super) async fn run(client: &Client, out: Output, command: TokenCommand) -> Result<Exit, Failure> {
    match command {
        TokenCommand::Create { name, role } => {
            let answer = client.post("/v1/tokens", &TokenRequest { name, role: role.into() }).await?;
            print(
                out,
                &answer,
                |made: &NewToken| made.info.id.clone(),
                |made| {
                    remark(&format!("{} is shown this once:", clean(&made.info.id)));
                    format!("{}\n", clean(&made.token))
                },
            )
        }
        TokenCommand::Ls => {
            let list = client.get("/v1/tokens").await?;
            print_list(
                out,
                &list,
                |token: &Token| token.id.clone(),
                |tokens| {
                    let row = |token: &Token| {
                        [&*token.id, &*token.name, &*token.role, &*token.created_at].map(clean).to_vec()
                    };
                    let rows: Vec<_> = tokens.iter().map(row).collect();
                    table(&["ID", "NAME", "ROLE", "CREATED"], &rows)
                },
            )
        }
        TokenCommand::Revoke { id } => {
            client.send(Method::DELETE, &format!("/v1/tokens/{}", escape(&id)), &[], None).await?;
            remark(&format!("{id} is worth nothing any more"));
            Ok(Exit::Ok)
        }
    }
}
