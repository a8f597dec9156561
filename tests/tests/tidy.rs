//! The rules of the house that a compiler does not know: who imports whom, one door per outside
//! package, sizes, first lines.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests lies below the root")
        .into()
}

fn metadata() -> Metadata {
    let mut command = MetadataCommand::new();
    command
        .manifest_path(root().join("Cargo.toml"))
        .other_options(vec!["--locked".into()]);
    command.exec().expect("cargo metadata runs")
}

/// Files that git tracks or would track, relative to the root.
fn files() -> Vec<String> {
    let listing = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git is installed");
    assert!(listing.status.success(), "not a git checkout");
    let names = String::from_utf8(listing.stdout).expect("names are UTF-8");
    let mut names: Vec<_> = names.lines().map(str::to_owned).collect();
    names.retain(|name| root().join(name).is_file());
    assert!(names.len() > 50, "git lists only {} files", names.len());
    names
}

fn rust_files() -> Vec<(String, String)> {
    let names = files().into_iter().filter(|name| name.ends_with(".rs"));
    names
        .map(|name| {
            let text = fs::read_to_string(root().join(&name)).expect("a source file is readable");
            (name, text)
        })
        .collect()
}

#[test]
fn crates_import_only_whom_the_design_allows() {
    let allowed: BTreeMap<&str, &[&str]> = [
        ("schemas", &[][..]),
        ("kernels", &[]),
        ("diffusion", &["kernels"]),
        ("agent", &["schemas", "diffusion", "kernels"]),
        ("scheduler", &["schemas"]),
        (
            "dailies",
            &["schemas", "kernels", "diffusion", "agent", "scheduler"],
        ),
        ("xtask", &[]),
        (
            "tests",
            &[
                "schemas",
                "kernels",
                "diffusion",
                "agent",
                "scheduler",
                "dailies",
            ],
        ),
    ]
    .into();
    let metadata = metadata();
    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        let may = allowed
            .get(name)
            .unwrap_or_else(|| panic!("crate '{name}' is not in the design"));
        for dependency in &package.dependencies {
            let ours = allowed.contains_key(dependency.name.as_str());
            assert!(
                !ours || may.contains(&dependency.name.as_str()),
                "'{name}' must not import '{}'",
                dependency.name
            );
        }
    }
}

#[test]
fn the_engine_has_no_way_to_the_network_the_database_or_ffmpeg() {
    let metadata = metadata();
    let reach = reachable(&metadata, "diffusion");
    for foreign in [
        "tokio",
        "reqwest",
        "hyper",
        "sea-orm",
        "ffmpeg-sidecar",
        "jiff",
        "schemas",
    ] {
        assert!(!reach.contains(foreign), "diffusion reaches '{foreign}'");
    }
    let scheduler = reachable(&metadata, "scheduler");
    for foreign in ["kernels", "cudarc", "nvml-wrapper", "ffmpeg-sidecar"] {
        assert!(
            !scheduler.contains(foreign),
            "the scheduler reaches '{foreign}'"
        );
    }
    let agent = reachable(&metadata, "agent");
    assert!(!agent.contains("sea-orm"), "an agent reaches the database");
}

/// Names of all packages behind a crate, without its tests' own.
fn reachable(metadata: &Metadata, name: &str) -> BTreeSet<String> {
    let nodes = &metadata.resolve.as_ref().expect("metadata resolves").nodes;
    let of_id = |id| {
        metadata
            .packages
            .iter()
            .find(|package| &package.id == id)
            .expect("resolved")
    };
    let start = metadata
        .packages
        .iter()
        .find(|package| package.name == name)
        .expect("a crate");
    let (mut queue, mut seen) = (vec![start.id.clone()], BTreeSet::new());
    while let Some(id) = queue.pop() {
        if !seen.insert(id.clone()) {
            continue;
        }
        let node = nodes
            .iter()
            .find(|node| node.id == id)
            .expect("each package has a node");
        let normal = node.deps.iter().filter(|dependency| {
            dependency
                .dep_kinds
                .iter()
                .any(|kind| kind.kind == DependencyKind::Normal)
        });
        queue.extend(normal.map(|dependency| dependency.pkg.clone()));
    }
    seen.iter().map(|id| of_id(id).name.to_string()).collect()
}

/// (package, the folders or files that may name it).
const DOORS: &[(&str, &[&str])] = &[
    ("sea_orm", &["scheduler/src/store/", "scheduler/tests/"]),
    ("sea_orm_migration", &["scheduler/src/store/"]),
    (
        "axum",
        &[
            "scheduler/src/api/",
            "scheduler/src/serve.rs",
            "scheduler/src/artifacts/s3_server.rs",
            "scheduler/tests/",
            "agent/src/page.rs",
        ],
    ),
    ("apalis", &["scheduler/src/chores/"]),
    ("apalis_core", &["scheduler/src/chores/"]),
    ("object_store", &["scheduler/src/artifacts/"]),
    (
        "hyper_util",
        &["scheduler/src/outbound.rs", "scheduler/src/artifacts/"],
    ),
    (
        "rustls",
        &[
            "scheduler/src/outbound.rs",
            "scheduler/tests/",
            "agent/src/connect.rs",
            "tests/",
        ],
    ),
    ("governor", &["scheduler/src/api/"]),
    (
        "reqwest",
        &[
            "agent/src/client.rs",
            "agent/src/connect.rs",
            "ops/cli/src/api.rs",
            "scheduler/tests/",
            "tests/",
        ],
    ),
    ("nvml_wrapper", &["agent/src/nvml.rs"]),
    ("ffmpeg_sidecar", &["agent/src/mux.rs", "agent/src/mux/"]),
    ("gemm", &["kernels/"]),
    ("cudarc", &["kernels/src/cuda/"]),
    ("libloading", &["kernels/src/cuda/libs.rs"]),
    ("safetensors", &["agent/diffusion/", "kernels/tests/"]),
    ("tokenizers", &["agent/diffusion/"]),
    (
        "prometheus",
        &["scheduler/src/metrics.rs", "agent/src/metrics.rs"],
    ),
    (
        "config",
        &["scheduler/src/settings.rs", "agent/src/settings.rs"],
    ),
];

#[test]
fn each_outside_package_has_one_door() {
    for (name, text) in rust_files() {
        for (package, doors) in DOORS {
            let path = format!("{package}::");
            let names_it = text.lines().any(|line| {
                let code = line.split("//").next().unwrap_or_default();
                code.match_indices(&path)
                    .any(|(at, _)| starts_a_path(code, at))
            });
            let open = doors.iter().any(|door| name.starts_with(door)) || !depends(&name, package);
            assert!(
                !names_it || open,
                "{name} names '{package}', whose door is {doors:?}"
            );
        }
    }
}

/// Whether the crate of a file depends on a package; if not, the name means a module of its own.
fn depends(file: &str, package: &str) -> bool {
    let folders = Path::new(file).ancestors().skip(1);
    let manifest = folders
        .map(|folder| root().join(folder).join("Cargo.toml"))
        .find(|manifest| manifest.is_file());
    let manifest = fs::read_to_string(manifest.expect("a crate has a manifest")).expect("readable");
    let key = format!("{}.workspace", package.replace('_', "-"));
    manifest.lines().any(|line| line.starts_with(&key))
}

/// Whether `code[at..]` is the head of a path, so `self::config::` and `my_config::` do not count.
fn starts_a_path(code: &str, at: usize) -> bool {
    let before = code[..at].chars().next_back();
    !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
}

#[test]
fn the_core_is_pure() {
    let core = rust_files()
        .into_iter()
        .filter(|(name, _)| name.starts_with("scheduler/src/core"));
    let mut seen = 0;
    for (name, text) in core {
        seen += 1;
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for foreign in [
            "tokio",
            "std::time",
            "std::fs",
            "std::net",
            "HashMap",
            "HashSet",
            ".await",
        ] {
            let named = code.lines().any(|line| {
                line.split("//")
                    .next()
                    .unwrap_or_default()
                    .contains(foreign)
            });
            assert!(
                !named,
                "{name} is part of the pure core but names '{foreign}'"
            );
        }
    }
    assert!(
        seen > 0,
        "the core has moved: this test no longer guards it"
    );
}

#[test]
fn every_source_file_says_first_what_it_is_for() {
    for (name, text) in rust_files() {
        let first = text.lines().next().unwrap_or_default();
        assert!(
            first.starts_with("//!"),
            "{name} does not start with a '//!' sentence"
        );
    }
}

#[test]
fn nothing_unfinished_is_left_in_the_sources() {
    let own = "tests/tests/tidy.rs";
    for (name, text) in rust_files().iter().filter(|(name, _)| name != own) {
        for mark in ["todo!(", "unimplemented!(", "#[ignore", "FIXME", "dbg!("] {
            assert!(!text.contains(mark), "{name} holds '{mark}'");
        }
    }
}

#[test]
fn files_stay_within_their_sizes() {
    const FILE_MAX: u64 = 256 << 10;
    const WEIGHTS_MAX: u64 = 32 << 20;
    const GOLDEN_MAX: u64 = 2 << 20;
    let (mut weights, mut golden) = (0, 0);
    for name in files() {
        let bytes = fs::metadata(root().join(&name))
            .expect("the file is there")
            .len();
        if name.starts_with("agent/weights/") {
            weights += bytes;
        } else if name.contains("/golden/") {
            golden += bytes;
        } else {
            assert!(
                bytes <= FILE_MAX || name == "Cargo.lock",
                "{name} has {bytes} bytes"
            );
        }
    }
    assert!(weights > 0, "the built-in model is missing");
    assert!(
        weights <= WEIGHTS_MAX,
        "the built-in model has {weights} bytes"
    );
    assert!(golden <= GOLDEN_MAX, "golden tensors have {golden} bytes");
}

#[test]
fn packages_that_would_tie_the_binary_to_a_system_stay_out() {
    let metadata = metadata();
    let names: BTreeSet<_> = metadata
        .packages
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    for banned in [
        "openssl-sys",
        "native-tls",
        "aws-lc-sys",
        "candle-core",
        "burn",
        "onig_sys",
    ] {
        assert!(
            !names.contains(banned),
            "'{banned}' is in the dependency graph"
        );
    }
}

#[test]
fn cuda_is_looked_for_when_the_program_runs_and_never_linked() {
    let metadata = metadata();
    let nodes = &metadata.resolve.as_ref().expect("metadata resolves").nodes;
    let cudarc = metadata
        .packages
        .iter()
        .find(|package| package.name == "cudarc")
        .expect("kernels use it");
    let node = nodes
        .iter()
        .find(|node| node.id == cudarc.id)
        .expect("each package has a node");
    let features: Vec<String> = node.features.iter().map(ToString::to_string).collect();
    for (feature, wanted) in [
        ("fallback-dynamic-loading", true),
        ("cuda-13000", true),
        // Links the binary to CUDA.
        ("dynamic-linking", false),
        ("static-linking", false),
        // Runs nvcc and panics where there is none.
        ("cuda-version-from-build-system", false),
    ] {
        assert_eq!(
            features.iter().any(|name| name == feature),
            wanted,
            "cudarc's feature '{feature}': {features:?}"
        );
    }
}
