//! The page in a browser. Without Chromium these tests are left out, and say so.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

use reloop_rig::browser::Browser;
use reloop_rig::factory::{Factory, gated, starting, with, work};
use serde_json::json;

/// Opens the page of a master with its admin token, as if it had been entered before.
async fn open(f: &Factory) -> Option<Browser> {
    let mut browser = Browser::start().await?;
    browser.open(&format!("http://{}/", f.master.addr())).await;
    browser.until("the page to ask for a token", "document.getElementById('login')?.hidden === false").await;
    let token = json!(f.master.admin_token());
    browser
        .value(&format!(
            "document.getElementById('token').value = {token}; document.querySelector('#login button').click()"
        ))
        .await;
    browser.until("the page to show something", "!document.getElementById('view').hidden").await;
    Some(browser)
}

/// The page has an entry with these words under "Needs a person".
fn needs(words: &str) -> String {
    let words = json!(words);
    format!(
        "[...document.querySelectorAll('#attention li')].some((item) => item.innerText.includes({words}))"
    )
}

#[tokio::test]
async fn counts_are_true_and_nothing_that_needs_a_person_vanishes_behind_a_long_queue() {
    let f = Factory::new().await;
    let held =
        f.place(starting(with(work("held", 0.0), json!({ "slave": "away" })), json!({ "hold": true }))).await;
    let running = f.running(gated("running")).await;
    for _ in 0..3 {
        let many = with(work("many", 0.0), json!({ "quantity": 1000, "slave": "away" }));
        f.client.place(&many, None).await.unwrap().expect(201);
    }
    let Some(mut page) = open(&f).await else { return };
    let counts = "1 need a person · 1 running · 3001 queued · 0 offline";
    page.until("true counts", &format!("document.getElementById('counts').textContent === {:?}", counts))
        .await;
    page.until("the held job", &needs(&held)).await;
    page.until("its risk", &needs("Risk: it starts as soon as a machine is ready for it.")).await;
    let row = format!(
        "[...document.querySelectorAll('#jobs tr')].some((row) => row.innerText.includes('{running}'))"
    );
    page.until("the running job", &row).await;
    let rest = "!document.getElementById('queue').hidden && document.getElementById('queue').textContent";
    page.until("what is not shown to be counted", &format!("({rest}).startsWith('2901 more are queued')"))
        .await;
    f.slaves[0].open_gate("running");
}

#[tokio::test]
async fn a_long_list_of_needs_is_shown_to_its_end() {
    let f = Factory::empty(reloop_rig::process::MasterOptions::default()).await;
    let many = starting(with(work("many", 0.0), json!({ "quantity": 600 })), json!({ "hold": true }));
    f.client.place(&many, None).await.unwrap().expect(201);
    let Some(mut page) = open(&f).await else { return };
    page.until("how many there are", "document.getElementById('more').innerText.includes('of 600.')").await;
    page.value("document.getElementById('all').click()").await;
    page.until("all of them", "document.querySelectorAll('#attention li').length === 600").await;
    page.until("nothing more", "document.getElementById('more').hidden").await;
}

#[tokio::test]
async fn a_button_that_was_pressed_while_the_master_was_down_shows_that_there_was_no_answer() {
    let mut f = Factory::with(|options| options.release = "ack".to_owned()).await;
    f.done(work("first", 0.0)).await;
    let Some(mut page) = open(&f).await else { return };
    let ready = "document.querySelector('#attention button')";
    page.until("the machine to wait for a person", &format!("{ready}?.textContent === 'ready'")).await;
    f.master.kill();
    page.until("the page to miss the master", "document.body.classList.contains('lost')").await;
    page.value(&format!("{ready}.focus(); {ready}.click()")).await;
    page.until("the button back with what happened", &format!("!{ready}.disabled && {}", needs("no answer")))
        .await;
    assert_eq!(page.value(&format!("document.activeElement === {ready}")).await, true, "it keeps the focus");
    f.master.restart().await;
    f.online(0).await;
    page.until("the master back", "!document.body.classList.contains('lost')").await;
    page.until("no old alarm", "document.getElementById('banner').hidden").await;
    page.value(&format!("{ready}.click()")).await;
    page.until("nothing to do", "document.getElementById('attention-section').hidden").await;
}
