// SPDX-License-Identifier: Apache-2.0

//! Runs conformance cases through this client: one JSON command a line on standard input, one JSON answer a line on standard
//! output, as tests/conformance/PROBE.md defines them. Messages travel as the base64 of their bytes.

use std::collections::HashMap;
use std::error::Error;
use std::io::stdin;
use std::pin::Pin;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message;
use serde_json::{Value, json};
use virtblock::v1::{BlockJobEvent, WatchBlockJobsRequest};
use virtblock::{Client, Messages, Options, StreamExt, Tls, VirError};

type Result<T> = std::result::Result<T, Box<dyn Error>>;
type Next<'a> = Pin<Box<dyn Future<Output = Option<Result<Value>>> + 'a>>;

/// Anything that gives messages until it fails or ends.
trait Source {
    fn next_answer(&mut self) -> Next<'_>;
}

impl<T: Message> Source for Messages<T> {
    fn next_answer(&mut self) -> Next<'_> {
        Box::pin(async { Some(self.next().await?.map(|message| answer(&message)).map_err(Into::into)) })
    }
}

/// A watch and the token to resume after what it gave.
struct Watch(Messages<BlockJobEvent>, String);

impl Source for Watch {
    fn next_answer(&mut self) -> Next<'_> {
        Box::pin(async {
            let event = match self.0.next().await? {
                Ok(event) => event,
                Err(error) => return Some(Err(error.into())),
            };
            if !event.resume_token.is_empty() {
                self.1.clone_from(&event.resume_token);
            }
            let mut answer = answer(&event);
            answer["token"] = self.1.clone().into();
            Some(Ok(answer))
        })
    }
}

fn answer(message: &impl Message) -> Value {
    json!({"response": BASE64.encode(message.encode_to_vec())})
}

#[derive(Default)]
struct Probe {
    clients: HashMap<String, Client>,
    streams: HashMap<String, Box<dyn Source>>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut probe = Probe::default();
    // Read on another thread: streams go on meanwhile.
    while let Some(line) = tokio::task::spawn_blocking(|| stdin().lines().next()).await?.transpose()? {
        let command = serde_json::from_str(&line)?;
        println!("{}", probe.run(&command).await.unwrap_or_else(|error| failure(error.as_ref())));
    }
    Ok(())
}

fn failure(error: &(dyn Error + 'static)) -> Value {
    let Some(failed) = error.downcast_ref::<VirError>() else { return json!({"crash": format!("{error:?}")}) };
    json!({"error": {
        "number": failed.number, "domain": failed.domain, "level": failed.level, "message": failed.message,
        "str1": failed.str1, "str2": failed.str2, "str3": failed.str3, "int1": failed.int1, "int2": failed.int2,
        "reason": failed.reason,
    }})
}

fn text<'a>(command: &'a Value, key: &str) -> &'a str {
    command[key].as_str().unwrap_or_default()
}

impl Probe {
    async fn run(&mut self, command: &Value) -> Result<Value> {
        let (client, stream) = (text(command, "client"), text(command, "stream"));
        match text(command, "op") {
            "dial" => {
                let dialled = dial(command)?;
                let target = dialled.target();
                self.clients.insert(client.to_owned(), dialled);
                return Ok(json!({"target": target}));
            }
            "call" => return call(&self.clients[client], command).await,
            "next" => {
                let next = self.streams.get_mut(stream).ok_or("no such stream")?.next_answer().await;
                return next.unwrap_or_else(|| Ok(json!({"end": true})));
            }
            "open" => {
                let opened = open(&self.clients[client], text(command, "method"), &request(command)?)?;
                self.streams.insert(stream.to_owned(), opened);
            }
            "watch" => {
                let request: WatchBlockJobsRequest = decode(&request(command)?)?;
                let token = request.resume_token.clone();
                let watch = self.clients[client].watch_block_jobs(request).await?;
                self.streams.insert(stream.to_owned(), Box::new(Watch(watch, token)));
            }
            "close_stream" => drop(self.streams.remove(stream)),
            "close" => self.clients.remove(client).ok_or("no such client")?.close(),
            other => return Err(format!("unknown op {other:?}").into()),
        }
        Ok(json!({}))
    }
}

fn dial(command: &Value) -> Result<Client> {
    let owned = |holder: &Value, key| text(holder, key).to_owned();
    let tls = |tls: &Value| Tls {
        ca: owned(tls, "ca"),
        cert: owned(tls, "cert"),
        key: owned(tls, "key"),
        server_name: owned(tls, "server_name"),
    };
    let options = Options {
        read_only: command["read_only"] == true,
        insecure: command["insecure"] == true,
        connection_uri: owned(command, "connection_uri"),
        tls: command["tls"].is_object().then(|| tls(&command["tls"])),
    };
    Ok(Client::with_options(text(command, "target"), options)?)
}

async fn call(client: &Client, command: &Value) -> Result<Value> {
    let mut client = client.child();
    if let Some(timeout_ms) = command["timeout_ms"].as_u64().filter(|ms| *ms > 0) {
        client = client.with_timeout(Duration::from_millis(timeout_ms));
    }
    if let Some(cancel_after_ms) = command["cancel_after_ms"].as_u64().filter(|ms| *ms > 0) {
        let called = client.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(cancel_after_ms)).await;
            called.close();
        });
    }
    unary(&client, text(command, "method"), &request(command)?).await
}

fn request(command: &Value) -> Result<Vec<u8>> {
    Ok(BASE64.decode(text(command, "request"))?)
}

fn decode<T: Message + Default>(bytes: &[u8]) -> Result<T> {
    Ok(T::decode(bytes)?)
}

fn unknown<T>(method: &str) -> Result<T> {
    Err(format!("no such call: {method}").into())
}

async fn unary(client: &Client, method: &str, request: &[u8]) -> Result<Value> {
    macro_rules! unary {
        ($service:ident, $call:ident) => {
            Ok(answer(&client.$service.$call(decode(request)?).await?))
        };
    }
    macro_rules! streaming {
        ($service:ident, $call:ident) => {
            unknown(method)
        };
    }
    include!("gen/dispatch.rs")
}

fn open(client: &Client, method: &str, request: &[u8]) -> Result<Box<dyn Source>> {
    macro_rules! unary {
        ($service:ident, $call:ident) => {
            unknown(method)
        };
    }
    macro_rules! streaming {
        ($service:ident, $call:ident) => {
            Ok(Box::new(client.$service.$call(decode(request)?)))
        };
    }
    include!("gen/dispatch.rs")
}
