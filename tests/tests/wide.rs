//! Films whose shots run on several devices of a node at once, from the command line to the bill.

use std::fs;

use tests::{
    Process, dailies,
    farm::{Farm, TIMES},
    wait,
};

/// A node whose processor counts as two devices.
fn agent(farm: &Farm) -> Process {
    let token = farm.folder.path().join("data/agent-token");
    let scratch = farm.folder.path().join("scratch");
    let scheduler = farm.api.base_url.trim_end_matches("/v1").to_string();
    let arguments = [
        "agent",
        "--scheduler",
        &scheduler,
        "--token-file",
        token.to_str().expect("UTF-8"),
        "--scratch",
        scratch.to_str().expect("UTF-8"),
        "--name",
        "node-1",
        "--threads",
        "2",
        "--devices",
        "2",
    ];
    Process::start(&arguments, TIMES)
}

fn submit(farm: &Farm, devices: &str, output: &str) -> (String, String) {
    let data = farm.folder.path().join("data");
    let url = farm.api.base_url.clone();
    let film = farm.folder.path().join(output);
    let mut command = dailies();
    command.args(["submit", "--url", &url, "--data"]).arg(data);
    command.args(["--devices", devices, "--size", "64x64", "--seconds", "1"]);
    command.args(["--seed", "11", "--steps", "40"]);
    if !output.is_empty() {
        command.arg("--output").arg(film);
    }
    let told = command
        .arg("a big red ball bounces")
        .output()
        .expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&told.stdout), text(&told.stderr))
}

#[test]
fn a_film_on_two_devices_has_the_bytes_of_one_and_is_charged_for_both() {
    let farm = Farm::start();
    let mut agent = agent(&farm);
    let (id, _) = submit(&farm, "2", "");
    let id = id.trim().to_string();
    let busy = wait("both devices at work on one task", || {
        let (_, node) = farm.api.get("/organization/nodes/node-1")?;
        let devices = node["devices"].as_array()?;
        let tasks: Vec<_> = devices.iter().filter_map(|d| d["task"].as_str()).collect();
        let one = matches!(&*tasks, [first, second] if first == second);
        one.then(|| tasks[0].to_string())
    });
    agent.wait_for("devices=[0, 1]");
    let (video, wide) = farm.wait_for_film(&id);
    assert_eq!(video["devices"], 2, "{video}");

    submit(&farm, "1", "narrow.mp4");
    let narrow = fs::read(farm.folder.path().join("narrow.mp4")).expect("the film was saved");
    assert!(wide == narrow, "the number of devices changes the film");

    // A device of the group needs half of what the engine foretold, and nothing is made up.
    let (_, needs) = farm.api.get("/organization/memory").expect("it answers");
    let told = |at: usize| needs["data"][at]["foretold_bytes"].as_u64();
    let told = [told(0), told(1)].map(|bytes| bytes.expect("it was foretold"));
    assert!(
        told[0] > 10 << 20 && told[0] / 2 <= told[1] && told[1] < told[0],
        "{needs}"
    );
    assert_eq!(needs["data"][0]["peaks"], 0, "{needs}");

    let (_, quota) = farm
        .api
        .get("/organization/quota/default")
        .expect("it answers");
    let entries = quota["entries"].as_array().expect("entries");
    let of = |entry: &&serde_json::Value| {
        let key = entry["key"].as_str().unwrap_or_default();
        key.starts_with(&format!("post:{busy}"))
    };
    let post = entries.iter().find(of).expect("the shot was charged");
    assert_eq!(post["arithmetic"]["devices"], 2, "{post}");
}

#[test]
fn a_film_that_no_node_can_run_on_so_many_devices_says_so() {
    let farm = Farm::start();
    let _agent = agent(&farm);
    wait("the node", || {
        farm.api
            .get("/organization/nodes/node-1")
            .filter(|(status, _)| *status == 200)
    });
    let (id, _) = submit(&farm, "4", "");
    let video = farm.video(id.trim()).expect("it answers");
    let reason = &video["reason"];
    assert_eq!(reason["code"], "no_capable_device", "{video}");
    let message = reason["message"].as_str().expect("words");
    assert!(
        message.contains("4 devices at once; the largest group size is 2"),
        "{message}"
    );
    let (_, wrong) = submit(&farm, "3", "");
    assert!(
        wrong.contains("a group has 1, 2, 4 or 8 devices"),
        "{wrong}"
    );
}
