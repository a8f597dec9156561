//! `dailies nodes`: machines of a running farm, their devices, and orders about them. Needs the operator's key.

use anyhow::Result;
use clap::{Args, Subcommand};
use schemas::node::{MemoryNeed, Node, NodeDevice, Notice};
use serde_json::{Value, json};

use crate::{
    api::{Api, ServerArgs},
    progress::seconds,
};

const HELP: &str = "Orders:
  cordon      no new work; what runs goes on. Uncordon undoes it.
  drain       no new work; what runs is finished or given back, then the agent leaves.
  quarantine  take a device out until an operator releases it; its work moves on from its step.
  release     bring a device back at once, whatever took it out.

A device that reports a hardware fault, or on which tasks of different users fail, goes into quarantine by itself
and is probed after 10 minutes, 1 hour and 6 hours.";

#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub struct NodesArgs {
    #[command(subcommand)]
    command: Option<NodesCommand>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Subcommand, Debug)]
enum NodesCommand {
    /// Take a node out of the farm: finish or give back its work, then leave.
    Drain {
        /// Name of the node.
        node: String,
    },
    /// Give a node no new work; what runs goes on.
    Cordon {
        /// Name of the node.
        node: String,
        /// For those who look at it later.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Give a cordoned node work again.
    Uncordon {
        /// Name of the node.
        node: String,
    },
    /// Take devices out of work until they are released.
    Quarantine {
        /// Name of the node.
        node: String,
        /// Index of the device [default: all of the node]
        #[arg(long)]
        device: Option<u32>,
        /// For those who look at it later.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Bring devices back from quarantine.
    Release {
        /// Name of the node.
        node: String,
        /// Index of the device [default: all of the node]
        #[arg(long)]
        device: Option<u32>,
    },
    /// Show what memory shots take, and what a device must have for them.
    ///
    /// A device must have 100/95 of the larger of two numbers: nine tenths of what the engine foretold last,
    /// and what 95 % of the last 32 peaks stayed below, once 8 were seen (GPUs alone can tell peaks).
    /// A device as large as one that has done such work is never too small.
    Memory,
    /// Show what operators did and should know, newest last.
    Log {
        /// Show everything that is known of each.
        #[arg(long)]
        full: bool,
    },
}

pub async fn run(args: NodesArgs) -> Result<()> {
    let api = Api::new(&args.server)?;
    let (node, order, body) = match args.command {
        None => {
            let nodes = api.nodes().await?.data;
            table(&nodes);
            return Ok(());
        }
        Some(NodesCommand::Memory) => {
            print!("{}", memory_table(&api.memory().await?.data));
            return Ok(());
        }
        Some(NodesCommand::Log { full }) => {
            let notices = api.notices().await?.data;
            notices.iter().rev().for_each(|notice| tell(notice, full));
            return Ok(());
        }
        Some(NodesCommand::Drain { node }) => (node, "drain", json!({})),
        Some(NodesCommand::Cordon { node, reason }) => (node, "cordon", with(None, reason)),
        Some(NodesCommand::Uncordon { node }) => (node, "uncordon", json!({})),
        Some(NodesCommand::Quarantine {
            node,
            device,
            reason,
        }) => (node, "quarantine", with(device, reason)),
        Some(NodesCommand::Release { node, device }) => (node, "release", with(device, None)),
    };
    let done = api.order_node(&node, order, &body).await?;
    if !done.changed {
        println!("it was so before; nothing changed");
    }
    table(&[done.node]);
    Ok(())
}

fn with(device: Option<u32>, reason: Option<String>) -> Value {
    let mut body = json!({});
    if let Some(device) = device {
        body["device"] = device.into();
    }
    if let Some(reason) = reason {
        body["reason"] = reason.into();
    }
    body
}

fn table(nodes: &[Node]) {
    if nodes.is_empty() {
        println!("no node has joined yet: start one with 'dailies agent'");
        return;
    }
    println!(
        "{:20} {:13} {:>6} {:24} {:>9} {:12} {:>5} {:>5} {:>7}  WHY",
        "NODE", "STATE", "DEVICE", "CLASS", "MEMORY", "DEVICE IS", "USED", "TEMP", "POWER"
    );
    let now = jiff::Timestamp::now().as_second();
    for node in nodes {
        for (at, device) in node.devices.iter().enumerate() {
            println!("{}", row(node, device, at == 0, now));
        }
    }
}

/// The name of a node stands only on its first line.
fn row(node: &Node, device: &NodeDevice, is_first: bool, now_s: i64) -> String {
    let (name, state) = match is_first {
        true => (node.name.as_str(), node.state.as_str()),
        false => ("", ""),
    };
    let sample = node.samples.iter().find(|s| s.index == device.index);
    let with_unit =
        |value: Option<u32>, unit: &str| value.map_or("-".into(), |value| format!("{value}{unit}"));
    format!(
        "{name:20} {state:13} {:>6} {:24} {:>5} GiB {:12} {:>5} {:>5} {:>7}  {}",
        device.index,
        device.class,
        device.memory_bytes >> 30,
        device.state,
        with_unit(sample.and_then(|s| s.utilisation_percent), "%"),
        with_unit(sample.and_then(|s| s.temperature_c), "C"),
        with_unit(sample.and_then(|s| s.power_mw).map(|mw| mw / 1_000), "W"),
        why(node, device, now_s)
    )
    .trim_end()
    .to_string()
}

fn why(node: &Node, device: &NodeDevice, now_s: i64) -> String {
    let throttled = node
        .samples
        .iter()
        .find(|sample| sample.index == device.index)
        .map(|sample| sample.throttled_by.join(", "))
        .unwrap_or_default();
    let silent = seconds((now_s - node.seen_at) as f64);
    match (&device.quarantine, &node.cordon) {
        _ if node.state == "unresponsive" => {
            format!("no word for {silent}; its work goes on elsewhere")
        }
        _ if node.state == "gone" => "has left; 'dailies agent' there brings it back".into(),
        (Some(out), _) => {
            let back = match out.probe_at {
                Some(at) => format!(
                    "probed in {}, {} failed so far",
                    seconds((at - now_s) as f64),
                    out.probes_failed
                ),
                None => "until it is released".into(),
            };
            format!("{} ({}), {back}", out.why, out.cause)
        }
        (None, Some(reason)) => reason.clone(),
        (None, None) if !throttled.is_empty() => format!("throttled: {throttled}"),
        (None, None) => String::new(),
    }
}

fn memory_table(needs: &[MemoryNeed]) -> String {
    if needs.is_empty() {
        return "no shot has told yet what it takes of memory\n".into();
    }
    let mut text = format!(
        "{:16} {:>11} {:>9} {:28} {:>10} {:>16} {:>10} {:>10}\n",
        "WEIGHTS", "SIZE", "FRAMES", "CLASS", "FORETOLD", "SEEN (OF)", "DONE ON", "NEEDS"
    );
    for need in needs {
        let class = match need.devices {
            1 => need.class.clone(),
            devices => format!("{} x{devices}", need.class),
        };
        let shown = |bytes: u64| match bytes {
            0x4000_0000.. => format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30)),
            _ => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        };
        let some = |bytes: Option<u64>| bytes.map_or("-".into(), shown);
        text += &format!(
            "{:16} {:>11} {:>9} {class:28} {:>10} {:>16} {:>10} {:>10}\n",
            need.weights,
            format!("{}x{}", need.width, need.height),
            format!("up to {}", need.frames_max),
            some(need.foretold_bytes),
            format!("{} ({})", some(need.peak_p95_bytes), need.peaks),
            some(need.proven_bytes),
            shown(need.device_bytes),
        );
    }
    text
}

fn tell(notice: &Notice, full: bool) {
    let by = notice.actor.as_deref().unwrap_or("the farm");
    let why = notice.detail["why"]
        .as_str()
        .or(notice.detail["message"].as_str())
        .unwrap_or_default();
    let line = format!(
        "{}  {:18} {:24} by {by}  {why}",
        when(notice.created_at),
        notice.kind,
        notice.subject
    );
    println!("{}", line.trim_end());
    if full {
        println!("  {}", notice.detail);
    }
}

/// An instant in UTC, as in 2026-11-26T22:40:01Z.
fn when(unix_s: i64) -> String {
    let at = jiff::Timestamp::from_second(unix_s);
    at.map_or_else(|_| unix_s.to_string(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use schemas::{agent::DeviceSample, node::NodeQuarantine};

    use super::*;

    fn node(quarantine: Option<NodeQuarantine>, samples: Vec<DeviceSample>) -> Node {
        Node {
            object: "node".into(),
            name: "attic".into(),
            state: "online".into(),
            seen_at: 0,
            version: "0".into(),
            cordon: None,
            weights: Vec::new(),
            ffmpeg: None,
            devices: vec![NodeDevice {
                index: 1,
                class: "H200".into(),
                memory_bytes: 141 << 30,
                state: "busy".into(),
                task: None,
                quarantine,
            }],
            samples,
        }
    }

    #[test]
    fn a_device_shows_its_reading_and_what_is_wrong_with_it() {
        let hot = DeviceSample {
            index: 1,
            temperature_c: Some(91),
            power_mw: Some(650_500),
            throttled_by: vec!["thermal".into()],
            ..DeviceSample::default()
        };
        let node = node(None, vec![hot]);
        assert_eq!(
            row(&node, &node.devices[0], true, 0),
            "attic                online             1 H200                       141 GiB busy             \
             -   91C    650W  throttled: thermal"
        );
    }

    #[test]
    fn a_device_that_is_out_says_why_and_how_it_comes_back() {
        let out = |probe_at| NodeQuarantine {
            cause: "xid".into(),
            why: "Xid 79".into(),
            since: 0,
            probes_failed: 1,
            probe_at,
        };
        let told = |probe_at| {
            let node = node(Some(out(probe_at)), Vec::new());
            why(&node, &node.devices[0], 0)
        };
        assert_eq!(
            told(Some(60)),
            "Xid 79 (xid), probed in 60 s, 1 failed so far"
        );
        assert_eq!(told(None), "Xid 79 (xid), until it is released");
    }

    #[test]
    fn a_silent_node_says_since_when() {
        let mut node = node(None, Vec::new());
        node.state = "unresponsive".into();
        assert_eq!(
            why(&node, &node.devices[0], 45),
            "no word for 45 s; its work goes on elsewhere"
        );
        node.state = "gone".into();
        assert!(why(&node, &node.devices[0], 900).contains("'dailies agent'"));
    }

    #[test]
    fn what_shots_take_of_memory_is_a_table() {
        let need = MemoryNeed {
            object: "memory.need".into(),
            weights: "ltx-2".into(),
            width: 1280,
            height: 704,
            frames_max: 129,
            class: "H200".into(),
            devices: 2,
            foretold_bytes: Some(40 << 30),
            peaks: 3,
            peak_p95_bytes: None,
            proven_bytes: Some(80 << 30),
            device_bytes: 38 << 30,
        };
        let table = memory_table(&[need]);
        assert_eq!(
            table.lines().nth(1).unwrap(),
            "ltx-2               1280x704 up to 129 H200 x2                       40.00 GiB            \
             - (3)  80.00 GiB  38.00 GiB"
        );
        assert!(memory_table(&[]).contains("no shot has told"));
    }

    #[test]
    fn instants_are_read_by_people() {
        assert_eq!(when(1_795_732_801), "2026-11-26T22:40:01Z");
    }
}
