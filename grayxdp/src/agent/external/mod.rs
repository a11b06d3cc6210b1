//! Others that have a say in a release, or are told of it: Prometheus servers that are asked, webhooks that are called. One
//! task for each; what they hear comes to the agent's loop as [`Heard`]. Decides nothing: `decide/external` does.
//!
//! Whatever a server does, nothing here waits longer than the time-outs of the config, and nothing that is sent is more than
//! what the config and the release say. Redirects are not followed: a query must be answered where the config says.

mod client;
mod cloud_event;

use std::{sync::Arc, time::Duration};

use grayxdp_common::ids::Version;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval_at},
};

use self::client::Client;
pub use self::client::ClientError;
pub(super) use self::cloud_event::{CloudEvent, Data, Kind};
use crate::{
    config::{Query, ServiceConfig, Webhook},
    decide::external::{Answers, fill_in, hook::Question},
};

/// What the loop has not taken yet. While there is more, the asking waits.
const HEARD_MAX: usize = 1024;
/// Calls that wait for one webhook. More are not made, and logged.
const CALLS_MAX: usize = 256;

/// What the loop hears.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Heard {
    /// Answers to a query.
    Answers {
        /// Index into the config's services.
        service: usize,
        /// Index into the release's queries.
        query: usize,
        /// What came back.
        answers: Answers,
    },
    /// What a webhook says to a raise.
    Hook {
        /// Index into the config's services.
        service: usize,
        /// What it was asked.
        question: Question,
        /// Yes, or why not.
        answer: Result<(), String>,
    },
}

/// One call of a webhook: a question where there is a raise, else news.
struct Call {
    event: Arc<CloudEvent>,
    question: Option<Question>,
}

/// The tasks; dropping it ends them, and calls that are under way with them.
#[derive(Debug)]
pub(super) struct External {
    /// By service and webhook.
    webhooks: Vec<Vec<mpsc::Sender<Call>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl External {
    /// Begins to ask, as tasks of the present tokio runtime. Each query is asked for the first time at once.
    ///
    /// # Errors
    /// Where the system has no randomness or no certificates to begin with.
    pub(super) fn start(services: &[ServiceConfig]) -> Result<(Self, mpsc::Receiver<Heard>), ClientError> {
        let (heard, receiver) = mpsc::channel(HEARD_MAX);
        let mut external = Self { webhooks: Vec::with_capacity(services.len()), tasks: Vec::new() };
        let asks =
            |service: &ServiceConfig| !service.external.queries.is_empty() || !service.external.webhooks.is_empty();
        if !services.iter().any(asks) {
            external.webhooks = services.iter().map(|_| Vec::new()).collect();
            return Ok((external, receiver));
        }
        let client = Client::new()?;
        for (service, config) in services.iter().enumerate() {
            for (query, settings) in config.external.queries.iter().enumerate() {
                let texts = Texts::new(settings, &config.name);
                let place = (service, query);
                let task = ask(client.clone(), settings.clone(), texts, place, heard.clone());
                external.tasks.push(tokio::spawn(task));
            }
            let mut webhooks = Vec::with_capacity(config.external.webhooks.len());
            for settings in &config.external.webhooks {
                let (calls, queue) = mpsc::channel(CALLS_MAX);
                let task = call(client.clone(), settings.clone(), config.name.clone(), service, queue, heard.clone());
                external.tasks.push(tokio::spawn(task));
                webhooks.push(calls);
            }
            external.webhooks.push(webhooks);
        }
        Ok((external, receiver))
    }

    /// Asks a webhook about a raise; the answer is heard later. `false` where too many calls of it wait already.
    pub(super) fn ask(&self, service: usize, question: Question, event: CloudEvent) -> bool {
        self.send(service, question.hook, Call { event: Arc::new(event), question: Some(question) })
    }

    /// Tells a webhook. `false` where too many calls of it wait already: this one is lost.
    pub(super) fn tell(&self, service: usize, webhook: usize, event: &Arc<CloudEvent>) -> bool {
        self.send(service, webhook, Call { event: event.clone(), question: None })
    }

    fn send(&self, service: usize, webhook: usize, call: Call) -> bool {
        let calls = self.webhooks.get(service).and_then(|webhooks| webhooks.get(webhook));
        calls.is_some_and(|calls| calls.try_send(call).is_ok())
    }
}

impl Drop for External {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// A query for each version, with its placeholders filled in.
struct Texts {
    v1: Option<String>,
    v2: String,
}

impl Texts {
    fn new(query: &Query, service: &str) -> Self {
        let text = |version: Version| fill_in(&query.template, service, version.name(), query.policy.every);
        Self { v1: query.policy.rule.compares().then(|| text(Version::V1)), v2: text(Version::V2) }
    }
}

async fn ask(client: Client, query: Query, texts: Texts, place: (usize, usize), heard: mpsc::Sender<Heard>) {
    let (service, index) = place;
    let mut ticks = interval_at(Instant::now(), query.policy.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let v1 = async {
            match &texts.v1 {
                Some(text) => Some(client.query(&query.url, text, query.timeout).await),
                None => None,
            }
        };
        // At one moment, or the versions would be compared over different spans.
        let (v1, v2) = tokio::join!(v1, client.query(&query.url, &texts.v2, query.timeout));
        let answers = Answers { v1, v2 };
        if heard.send(Heard::Answers { service, query: index, answers }).await.is_err() {
            return;
        }
    }
}

async fn call(
    client: Client,
    webhook: Webhook,
    service_name: String,
    service: usize,
    mut queue: mpsc::Receiver<Call>,
    heard: mpsc::Sender<Heard>,
) {
    while let Some(Call { event, question }) = queue.recv().await {
        let answer = call_until_answered(&client, &webhook, &event).await;
        if let Err(why) = &answer {
            tracing::warn!(service = service_name, webhook = webhook.name, why, "webhook_failed");
        }
        if let Some(question) = question
            && heard.send(Heard::Hook { service, question, answer }).await.is_err()
        {
            return;
        }
    }
}

/// Calls, and tries again with growing waits; what the last try came to, if none succeeded.
async fn call_until_answered(client: &Client, webhook: &Webhook, event: &CloudEvent) -> Result<(), String> {
    let mut wait = webhook.backoff;
    let mut tries = 0;
    loop {
        let result = client.post(&webhook.url, event, webhook.timeout).await;
        tries += 1;
        match result {
            Ok(()) => return Ok(()),
            Err(why) if tries > webhook.retries => {
                return Err(if tries == 1 { why } else { format!("{why}, after {tries} tries") });
            }
            Err(_) => tokio::time::sleep(wait).await,
        }
        wait = wait.saturating_mul(2).min(WAIT_MAX);
    }
}

const WAIT_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
