//! Results of cards that are kept in `golden/` against the CPU's ops, and that keeping and comparing work.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use kernels::Device;
use kernels::check::golden::{Golden, GoldenError, files};
use kernels::check::{FAMILIES, Outcome, Scale, family};
use kernels::cuda::{Gpu, Nowhere};

fn folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("golden-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("tests have a folder");
    folder
}

/// Replays every file of a folder; how many cases, and what does not agree.
fn replay(folder: &Path) -> Result<(usize, Vec<String>), GoldenError> {
    let cpu = Device::cpu(2).unwrap();
    let (mut cases, mut wrong) = (0, Vec::new());
    for path in files(folder)? {
        let golden = Golden::read(&path)?;
        let name = path.display();
        let found = golden
            .replay(&cpu)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        wrong.extend(found.iter().map(|why| format!("{name}: {why}")));
        cases += golden.len();
    }
    Ok((cases, wrong))
}

#[test]
fn the_cpu_agrees_with_every_card_whose_results_are_kept() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let (cases, wrong) = replay(&folder).unwrap_or_else(|error| panic!("{error}"));
    println!("{cases} cases of {}", folder.display());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Keeps the cases of all families as a card without any fault would give them.
fn keep(folder: &Path) {
    let (gpu, cpu) = (
        Gpu::new(Arc::new(Nowhere::new((9, 0)))),
        Device::cpu(2).unwrap(),
    );
    for name in FAMILIES {
        let mut golden = Golden::new(name, &gpu, None, 11);
        for case in family(name, Scale::Small, true) {
            let outcome = case.run(&gpu, &cpu, 11).unwrap();
            let found = outcome.expected.clone();
            golden.keep(&case, &Outcome { found, ..outcome }).unwrap();
        }
        golden.write(folder).unwrap();
    }
}

#[test]
fn what_is_kept_of_all_families_is_small_and_agrees_until_one_value_is_another() {
    let folder = folder("all");
    keep(&folder);
    let (cases, wrong) = replay(&folder).unwrap();
    assert!(
        cases > 300 && wrong.is_empty(),
        "{cases}: {}",
        wrong.join("\n")
    );
    let paths = files(&folder).unwrap();
    assert_eq!(paths.len(), FAMILIES.len());
    let bytes: u64 = paths
        .iter()
        .map(|path| fs::metadata(path).unwrap().len())
        .sum();
    assert!(
        bytes < 160 << 10,
        "{bytes} bytes, of which a repository holds two cards' at most"
    );

    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        // The first sample of the last case, a little off.
        let at = text.rfind("\"samples\":[").unwrap() + "\"samples\":[".len();
        let end = at + text[at..].find([',', ']']).unwrap();
        let value: f32 = text[at..end].parse().unwrap();
        let planted = format!("{}{}{}", &text[..at], value * 1.2 + 0.1, &text[end..]);
        fs::write(&path, planted).unwrap();
        let cpu = Device::cpu(2).unwrap();
        let wrong = Golden::read(&path).unwrap().replay(&cpu).unwrap();
        assert_eq!(wrong.len(), 1, "{}: {wrong:?}", path.display());
    }
}

#[test]
fn a_file_that_says_nothing_is_an_error_and_not_a_silence() {
    let folder = folder("damaged");
    let path = folder.join("golden-products-card.json");
    let empty = Golden::new(
        "products",
        &Gpu::new(Arc::new(Nowhere::new((8, 0)))),
        None,
        1,
    );
    let whole = {
        let path = empty.write(&folder).unwrap();
        fs::read_to_string(&path).unwrap()
    };
    for (text, words) in [
        (whole.clone(), "no results"),
        (whole[..whole.len() / 2].to_string(), "no file of results"),
        (whole.replace("\"version\":1", "\"version\":2"), "version 2"),
        (whole.replace("\"seed\"", "\"speed\""), "unknown field"),
        (String::new(), "no file of results"),
    ] {
        for old in files(&folder).unwrap() {
            fs::remove_file(old).unwrap();
        }
        fs::write(&path, text).unwrap();
        let error = replay(&folder).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(replay(&folder), Err(GoldenError::File { .. })));
}

#[test]
fn cases_that_are_gone_or_changed_their_shape_are_told() {
    let folder = folder("changed");
    let gpu = Gpu::new(Arc::new(Nowhere::new((9, 0))));
    let golden = Golden::new("products", &gpu, None, 1);
    let path = golden.write(&folder).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let first = family("products", Scale::Small, true)[0].to_string();
    let case =
        |name: &str| format!("{{\"case\":\"{name}\",\"count\":1,\"size\":1.0,\"samples\":[1.0]}}");
    let cases = format!(
        "\"cases\":[{},{}]",
        case("linear of another day"),
        case(&first)
    );
    fs::write(&path, text.replace("\"cases\":[]", &cases)).unwrap();
    let (_, wrong) = replay(&folder).unwrap();
    assert!(wrong[0].contains("no such case any more"), "{wrong:?}");
    assert!(wrong[1].contains("values, not 1"), "{wrong:?}");
}
