//! A whole farm whose artefacts lie on a server that speaks S3, which goes away in mid-render.

#[path = "../../scheduler/src/artifacts/s3_server.rs"]
mod s3_server;

use std::{fs, path::Path};

use serde_json::json;
use tests::{Api, Process, wait};

use s3_server::{BUCKET, ID, S3Server, SECRET};

const STEPS: u64 = 40;

fn objects(folder: &Path) -> usize {
    let list = |folder: &Path| fs::read_dir(folder).map(|all| all.flatten().collect::<Vec<_>>());
    let shelves = list(&folder.join(BUCKET).join("night")).unwrap_or_default();
    let files = |shelf: &fs::DirEntry| list(&shelf.path()).map_or(0, |files| files.len());
    shelves.iter().map(files).sum()
}

#[test]
fn films_lie_on_s3_and_survive_its_absence() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let server = runtime.block_on(S3Server::start());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let endpoint = server.endpoint();
    let database = tests::database(folder.path());
    let mut settings = vec![
        ("DAILIES__SCHEDULER__S3__ENDPOINT", &*endpoint),
        ("AWS_ACCESS_KEY_ID", ID),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("DAILIES__AGENT__CHECKPOINT_STEPS", "2"),
    ];
    settings.extend(
        database
            .as_deref()
            .map(|url| ("DAILIES__SCHEDULER__DATABASE", url)),
    );
    let arguments = ["up", "--listen", "127.0.0.1:0", "--data"];
    let data = data.to_str().expect("UTF-8");
    let rest = [data, "--artifacts", "s3://films/night"];
    let mut farm = Process::start(&[&arguments[..], &rest].concat(), &settings);
    let url = farm.wait_for("base_url");
    farm.wait_for("artefacts travel unencrypted");
    let key = fs::read_to_string(format!("{data}/api-key")).expect("the first key");
    let api = Api::new(&url, &key);

    let request = json!({
        "model": "builtin", "prompt": "a big red ball bounces at night", "size": "64x64",
        "seconds": "2", "seed": 11, "steps": STEPS,
    });
    let (status, video) = api.post("/videos", &request).expect("it answers");
    assert_eq!(status, 200, "{video}");
    let id = video["id"].as_str().expect("an id").to_string();
    let video = || api.get(&format!("/videos/{id}")).map(|(_, video)| video);
    wait("some steps", || {
        video()?["steps_done"].as_u64().filter(|done| *done >= 4)
    });
    server.set_away(true);
    farm.wait_for("retry"); // the agent has met the absence and asks again
    server.set_away(false);
    wait("the film", || {
        video().filter(|video| {
            assert_ne!(video["status"], "failed", "{video}");
            video["status"] == "completed"
        })
    });

    let path = format!("/videos/{id}/content");
    let (status, film) = api.bytes(&path).expect("it answers");
    assert_eq!(status, 200);
    assert_eq!(&film[4..8], b"ftyp", "it is an MP4");
    let (status, part) = api.part(&path, "bytes=4-7").expect("it answers");
    assert_eq!((status, &part[..]), (206, &b"ftyp"[..]));
    let (status, _) = api.part(&path, "bytes=900000000-").expect("it answers");
    assert_eq!(status, 416);

    assert!(
        objects(server.folder.path()) >= 4,
        "shot, film and pictures"
    );
    assert!(!Path::new(data).join("cas").exists(), "nothing lies here");
    let mut doctor = tests::dailies();
    doctor.args(["doctor", "--data", data]);
    doctor.env("DAILIES__SCHEDULER__ARTIFACTS", "s3://films/night");
    doctor.envs(settings.iter().copied());
    let said = doctor.output().expect("it runs");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("s3://films/night: writes, reads"), "{said}");
}
