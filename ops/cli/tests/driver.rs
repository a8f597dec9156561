//! Drivers and cards that cannot be used: each is one clear error with the way out, never a panic. The driver is a
//! small library of this test's own, which answers as the real ones do.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What the start of a device asks of a driver. What is not defined is not in the library.
const DRIVER: &str = r#"
#include <string.h>
#ifdef VERSION
int cuTensorMapEncodeTiled(void) { return 1; }
int cuInit(unsigned flags) { return INIT; }
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "Some Card", length); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 75 ? MAJOR : attribute == 76 ? 0 : 4;
  return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 8ul << 30; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)1; return 0; }
int cuCtxSetCurrent(void *context) { return 0; }
int cuStreamCreate(void **stream, unsigned flags) { *stream = (void *)1; return 0; }
#else
int cuSomethingElse(void) { return 0; }
#endif
"#;

/// Compiles a library; `None` without a compiler.
fn library(folder: &Path, file: &str, text: &str, flags: &[&str]) -> Option<()> {
    let source = folder.join("library.c");
    fs::write(&source, text).unwrap();
    let mut compiler = Command::new("cc");
    compiler
        .args(["-shared", "-fPIC", "-w", "-o"])
        .arg(folder.join(file));
    let made = compiler.args(flags).arg(&source).output().ok()?;
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    Some(())
}

/// Exit code and all that a command says with the library of a folder.
fn said(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_dailies"))
        .current_dir(folder)
        .env("LD_LIBRARY_PATH", folder)
        .env("XDG_CACHE_HOME", folder.join("cache"))
        .args(arguments)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

fn folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("driver-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// What `render` and, where it can know, `doctor` say with a driver of these flags.
fn check(name: &str, flags: &[&str], words: &[&str], doctor: &str) -> PathBuf {
    let folder = folder(name);
    if library(&folder, "libcuda.so", DRIVER, flags).is_none() {
        println!("skipped: no C compiler");
        return folder;
    }
    let (code, told) = said(&folder, &["render", "a red ball", "--device", "cuda"]);
    assert_eq!(code, Some(1), "{told}");
    assert!(
        told.starts_with("error: ") && !told.contains("panicked"),
        "{told}"
    );
    for word in words {
        assert!(told.contains(word), "'{word}' is not in: {told}");
    }
    assert!(!folder.join("film.mp4").exists());
    let (_, told) = said(&folder, &["doctor"]);
    assert!(
        told.contains(doctor) && !told.contains("panicked"),
        "{told}"
    );
    folder
}

#[test]
fn a_driver_from_before_cuda_12_is_told_with_the_one_that_is_needed() {
    check(
        "ancient",
        &[],
        &[
            "libcuda.so is too old",
            "cuTensorMapEncodeTiled",
            "NVIDIA driver, 525 or newer",
        ],
        "libcuda.so is too old",
    );
    check(
        "old",
        &["-DVERSION=11080", "-DINIT=0", "-DMAJOR=9"],
        &[
            "it is for CUDA 11.8, and 12.0 is needed",
            "NVIDIA driver, 525 or newer",
        ],
        "libcuda.so is here",
    );
}

#[test]
fn a_driver_without_a_card_says_where_to_look() {
    let flags = ["-DVERSION=13000", "-DINIT=100", "-DMAJOR=9"];
    let words = ["sees no GPU", "nvidia-smi", "CUDA_VISIBLE_DEVICES"];
    check("none", &flags, &words, "libcuda.so is here");
}

#[test]
fn a_card_that_has_no_kernels_is_named() {
    let flags = ["-DVERSION=13000", "-DINIT=0", "-DMAJOR=7"];
    let words = ["Some Card", "compute capability 7.0", "8.0"];
    check("card", &flags, &words, "libcuda.so is here");
}

#[test]
fn a_machine_without_kernels_and_their_compiler_is_refused_before_a_film_begins() {
    let flags = ["-DVERSION=13000", "-DINIT=0", "-DMAJOR=9"];
    let words = [
        "kernels.pack",
        "libnvrtc",
        "install cuda-nvrtc-13-0",
        "sm_90a",
    ];
    let folder = check("kernels", &flags, &words, "libnvrtc.so is missing");
    // A compiler from long ago is as good as none.
    if library(&folder, "libnvrtc.so", DRIVER, &[]).is_some() {
        let (code, told) = said(&folder, &["render", "a red ball", "--device", "cuda"]);
        assert_eq!(code, Some(1), "{told}");
        assert!(
            told.contains("kernels.pack") && !told.contains("panicked"),
            "{told}"
        );
        let (_, told) = said(&folder, &["doctor"]);
        assert!(
            told.contains("libnvrtc.so is too old (it lacks nvrtcGetCUBIN)"),
            "{told}"
        );
    }
}

#[test]
fn a_doctor_who_renders_names_a_card_that_cannot_and_is_content_with_a_processor_alone() {
    let folder = folder("render");
    let (code, told) = said(&folder, &["doctor", "--render"]);
    assert!(
        told.contains("processor, ") && told.contains("right\n"),
        "{told}"
    );
    assert!(told.contains("all right"), "{told}");
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(
        fs::read_dir(&folder).unwrap().count(),
        0,
        "nothing is written"
    );
    let flags = ["-DVERSION=13000", "-DINIT=0", "-DMAJOR=9"];
    if library(&folder, "libcuda.so", DRIVER, &flags).is_none() {
        println!("skipped: no C compiler");
        return;
    }
    let (code, told) = said(&folder, &["doctor", "--render"]);
    assert_eq!(code, Some(1), "{told}");
    for words in [
        "processor, ",
        "right\n",
        "GPU 0",
        "WRONG",
        "kernels.pack",
        "device = \"cpu\"",
    ] {
        assert!(told.contains(words), "'{words}' is not in: {told}");
    }
    assert!(!told.contains("panicked"), "{told}");
}
