//! What the GPU tests need from outside: NVRTC, a disassembler, a C++ compiler, a folder that stays.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::{
    collections::BTreeSet,
    env, fs,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
};

use kernels::cuda::{Libraries, Nvrtc};
use sha2::{Digest, Sha256};

/// Set by `cargo xtask test`: a folder with `lib/libnvrtc.so.13` and `bin/cuobjdump`.
const VARIABLE: &str = "DAILIES_CUDA_TOOLS";

fn folder() -> Option<PathBuf> {
    env::var_os(VARIABLE).map(PathBuf::from)
}

/// Says aloud that a test did not run. In CI nothing may be missing.
pub fn skipped(why: &str) {
    println!("skipped: {why}");
    assert!(
        env::var_os("CI").is_none() || folder().is_none(),
        "skipped in CI: {why}"
    );
}

/// The compiler, if it is there.
pub fn nvrtc() -> Option<Nvrtc> {
    let folders: Vec<PathBuf> = folder().iter().map(|folder| folder.join("lib")).collect();
    Nvrtc::new(&Libraries::find(&folders)).ok()
}

/// Whether C++ can be compiled.
pub fn has_compiler() -> bool {
    ["g++", "clang++"]
        .iter()
        .any(|name| Command::new(name).arg("--version").output().is_ok())
}

/// Folder for what takes long to make and is the same every time.
pub fn cache() -> Option<PathBuf> {
    let folder = folder().unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
    Some(folder.join("made"))
}

/// Held while something for the cache is made, so that processes do not make it twice.
pub fn alone() -> fs::File {
    let folder = cache().expect("there is always a folder");
    fs::create_dir_all(&folder).expect("the cache can be made");
    let lock = fs::File::create(folder.join("lock")).expect("the cache can be written");
    lock.lock().expect("files can be locked");
    lock
}

fn cuobjdump() -> Option<PathBuf> {
    folder()
        .map(|folder| folder.join("bin/cuobjdump"))
        .filter(|path| path.is_file())
}

/// Whether machine code can be read.
pub fn has_disassembler() -> bool {
    cuobjdump().is_some()
}

/// Each instruction of a cubin once, sorted; kept in the cache.
pub fn instructions(cubin: &[u8]) -> Vec<String> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let digest: String = Sha256::digest(cubin)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let folder = cache().expect("asked only when there are tools");
    let kept = folder.join(format!("{digest}.instructions"));
    if let Ok(text) = fs::read_to_string(&kept) {
        return text.lines().map(str::to_owned).collect();
    }
    fs::create_dir_all(&folder).expect("the cache can be made");
    let aside = folder.join(format!(
        "{}.{}.cubin",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    ));
    fs::write(&aside, cubin).expect("the cache can be written");
    let program = cuobjdump().expect("asked only when it is there");
    // cuobjdump starts nvdisasm, which lies beside it.
    let folders = env::join_paths(
        [program.parent().expect("a file has a folder").into()]
            .into_iter()
            .chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())),
    );
    let output = Command::new(&program)
        .arg("-sass")
        .arg(&aside)
        .env("PATH", folders.expect("paths join"))
        .output();
    let _ = fs::remove_file(&aside);
    let output = output.expect("cuobjdump starts");
    assert!(
        output.status.success(),
        "cuobjdump: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let found: BTreeSet<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(instruction)
        .collect();
    let found: Vec<String> = found.into_iter().collect();
    let _ = fs::write(&kept, found.join("\n"));
    found
}

/// The instruction of a line such as `/*0a30*/  @P0 LDG.E.128 R4, [R2] ;  /* 0x… */`.
fn instruction(line: &str) -> Option<String> {
    let (_, code) = line.trim().strip_prefix("/*")?.split_once("*/")?;
    let mut words = code
        .split_whitespace()
        .filter(|word| !word.starts_with('@') && !word.starts_with('{'));
    let word = words.next()?.trim_end_matches(';');
    word.starts_with(|c: char| c.is_ascii_uppercase())
        .then(|| word.to_string())
}
