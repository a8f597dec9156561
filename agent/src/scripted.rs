//! Test only: an HTTP server on loopback that answers as a script says.
//!
//! What crosses the wire is real; the scheduler's own behaviour is tested with the real one.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

use schemas::agent::Hello;
use serde_json::Value;

use crate::{
    client::{Client, Try},
    held::Leases,
    membership::Membership,
    studio::Studio,
    work::Worker,
};

/// Path and body of a call to a JSON answer, or `None` to close the connection without one.
type Script = dyn Fn(&str, Value) -> Option<Value> + Send + Sync;

pub struct Scripted {
    pub url: String,
    /// Calls in the order in which they came: path without `/agent/v1/`, and body.
    pub calls: Arc<Mutex<Vec<(String, Value)>>>,
}

/// Starts the server; it lives as long as the test process.
pub fn serve(script: impl Fn(&str, Value) -> Option<Value> + Send + Sync + 'static) -> Scripted {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let calls = Arc::new(Mutex::new(Vec::new()));
    let (script, log): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&calls));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (script, log) = (Arc::clone(&script), Arc::clone(&log));
            thread::spawn(move || while answer(stream.as_ref().unwrap(), &*script, &log) {});
        }
    });
    Scripted { url, calls }
}

/// What a node without devices says of itself.
pub fn hello() -> Hello {
    Hello {
        name: "node".into(),
        boot: "01890000-0000-7000-8000-000000000001".parse().unwrap(),
        version: "test".into(),
        devices: Vec::new(),
        weights: Vec::new(),
        ffmpeg: None,
        group_max: 1,
    }
}

impl Scripted {
    /// A worker of this device that has joined.
    pub async fn worker(
        &self,
        device: u32,
        studio: &Arc<Studio>,
        leases: Arc<Leases>,
        scratch: &Path,
    ) -> Worker {
        let client = Client::new(&self.url, "token").unwrap();
        let joined = Membership::join(&client, hello(), || Try::Now).await;
        Worker {
            device,
            client,
            membership: Arc::new(joined.unwrap()),
            leases,
            studio: Arc::clone(studio),
            polls: Arc::default(),
            scratch: scratch.into(),
        }
    }

    /// Bodies of the calls to `path` so far.
    pub fn bodies(&self, path: &str) -> Vec<Value> {
        let calls = self.calls.lock().unwrap();
        calls
            .iter()
            .filter(|(called, _)| called == path)
            .map(|(_, body)| body.clone())
            .collect()
    }
}

/// Answers one request of a connection; false when the connection is over.
fn answer(stream: &TcpStream, script: &Script, log: &Mutex<Vec<(String, Value)>>) -> bool {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return false;
        }
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_string()),
        }
    }
    let length = head.iter().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().unwrap())
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    let path = head[0]
        .split(' ')
        .nth(1)
        .unwrap()
        .trim_start_matches("/agent/v1/")
        .to_string();
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    log.lock().unwrap().push((path.clone(), body.clone()));
    let Some(value) = script(&path, body) else {
        return false;
    };
    let text = value.to_string();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{text}",
        text.len()
    );
    (&mut &*stream).write_all(answer.as_bytes()).is_ok()
}
