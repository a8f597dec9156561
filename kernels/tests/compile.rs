//! Compiles every kernel for every architecture, without a GPU, and holds what came out against
//! `budget.toml`. Needs NVRTC, which `cargo xtask test` fetches; without it these tests are skipped aloud.

mod tools;

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, sync::OnceLock};

use kernels::cuda::{ARCHS, Cards, KernelStore, MODULES, Module, Nvrtc, Resources};
use rayon::prelude::*;

/// One module on one architecture.
struct Cubin {
    module: &'static Module,
    arch: &'static str,
    bytes: Vec<u8>,
    log: String,
}

/// All of them, compiled once a process and cached between processes.
fn cubins() -> Option<&'static [Cubin]> {
    static ALL: OnceLock<Option<Vec<Cubin>>> = OnceLock::new();
    let compile = || {
        let folder = Some(tools::cache()?);
        let _alone = tools::alone();
        let store = KernelStore {
            folder,
            pack: None,
            nvrtc: Some(tools::nvrtc()?),
        };
        let pairs: Vec<_> = MODULES
            .iter()
            .flat_map(|module| ARCHS.iter().map(move |arch| (module, *arch)))
            .collect();
        let wanted = pairs
            .into_par_iter()
            .filter(|(module, arch)| module.cards.include(arch));
        let compiled = wanted.map(|(module, arch)| {
            let (bytes, log, _) = store
                .cubin(module, arch)
                .unwrap_or_else(|error| panic!("{error}"));
            Cubin {
                module,
                arch,
                bytes,
                log,
            }
        });
        Some(compiled.collect())
    };
    ALL.get_or_init(compile).as_deref()
}

/// Numbers of a kernel: registers, static shared bytes.
type Row = BTreeMap<String, [u32; 2]>;
/// `[kernels]` module::entry -> architecture -> numbers; `[cubin_bytes]` module -> most bytes.
#[derive(serde::Deserialize)]
struct Budget {
    kernels: BTreeMap<String, Row>,
    cubin_bytes: BTreeMap<String, usize>,
}

fn budget() -> Budget {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("budget.toml");
    toml::from_str(&fs::read_to_string(path).expect("budget.toml is there"))
        .expect("budget.toml is right")
}

/// The line table of a cubin names the folder that its compiler ran in, so that its size depends on where a tree lies.
const FOLDER_BYTES: usize = 1_024;

/// What of a compilation breaks the budget.
fn overruns(budget: &Budget, cubin: &Cubin) -> Vec<String> {
    let Cubin {
        module,
        arch,
        bytes,
        log,
    } = cubin;
    let mut found: Vec<String> = Resources::complaints(log)
        .iter()
        .map(|line| format!("{} {arch}: {line}", module.name))
        .collect();
    let resources = Resources::parse(log);
    for entry in module.entries {
        let name = format!("{}::{entry}", module.name);
        let Some(Resources {
            registers,
            stack_bytes,
            spill_bytes,
            shared_bytes,
        }) = resources.get(*entry).copied()
        else {
            found.push(format!("{name} {arch}: ptxas says nothing of it"));
            continue;
        };
        if stack_bytes + spill_bytes > 0 {
            found.push(format!(
                "{name} {arch}: {stack_bytes} bytes of stack, {spill_bytes} spilled"
            ));
        }
        let allowed = budget
            .kernels
            .get(&name)
            .and_then(|row| row.get(*arch))
            .copied()
            .unwrap_or_default();
        if registers > allowed[0] || shared_bytes > allowed[1] {
            found.push(format!("{name} {arch}: {registers} registers and {shared_bytes} shared bytes, allowed {allowed:?}"));
        }
    }
    let most = budget
        .cubin_bytes
        .get(module.name)
        .copied()
        .unwrap_or_default();
    if bytes.len() > most + FOLDER_BYTES {
        found.push(format!(
            "{} {arch}: a cubin of {} bytes, allowed {most}",
            module.name,
            bytes.len()
        ));
    }
    found
}

/// The budget that would fit exactly, to be copied when a change is meant.
fn exact(cubins: &[Cubin]) -> String {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    let mut bytes: BTreeMap<&str, usize> = BTreeMap::new();
    for cubin in cubins {
        let most = bytes.entry(cubin.module.name).or_default();
        *most = cubin.bytes.len().max(*most);
        for (entry, one) in Resources::parse(&cubin.log) {
            let row = rows
                .entry(format!("{}::{entry}", cubin.module.name))
                .or_default();
            row.insert(cubin.arch.into(), [one.registers, one.shared_bytes]);
        }
    }
    let mut text = String::from("[kernels]\n");
    for (name, row) in rows {
        let numbers: Vec<String> = row
            .iter()
            .map(|(arch, [r, s])| format!("{arch} = [{r}, {s}]"))
            .collect();
        writeln!(text, "\"{name}\" = {{ {} }}", numbers.join(", ")).unwrap();
    }
    text += "\n[cubin_bytes]\n";
    bytes.iter().for_each(|(name, most)| {
        writeln!(text, "{name} = {}", most.next_multiple_of(1024)).unwrap()
    });
    text
}

#[test]
fn every_kernel_compiles_for_every_card_within_its_budget() {
    let Some(cubins) = cubins() else {
        return tools::skipped("no libnvrtc");
    };
    let budget = budget();
    let overruns: Vec<String> = cubins
        .iter()
        .flat_map(|cubin| overruns(&budget, cubin))
        .collect();
    assert!(
        overruns.is_empty(),
        "{}\nwhat would fit exactly:\n{}",
        overruns.join("\n"),
        exact(cubins)
    );
}

#[test]
fn machine_code_uses_the_instructions_that_it_was_written_for() {
    let Some(cubins) = cubins() else {
        return tools::skipped("no libnvrtc");
    };
    if !tools::has_disassembler() {
        return tools::skipped("no cuobjdump");
    }
    let wrong: Vec<String> = cubins
        .par_iter()
        .flat_map_iter(|cubin| {
            let code = tools::instructions(&cubin.bytes);
            let name = format!("{} {}", cubin.module.name, cubin.arch);
            wrong_instructions(cubin.module, &code)
                .into_iter()
                .map(move |why| format!("{name}: {why}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a module must and must not be made of. `code` holds each instruction once.
fn wrong_instructions(module: &Module, code: &[String]) -> Vec<String> {
    let has = |start: &str| code.iter().any(|word| word.starts_with(start));
    let mut wrong = Vec::new();
    let mut want = |start: &str, wanted: bool| {
        if has(start) != wanted {
            wrong.push(format!("{} {start}", if wanted { "has no" } else { "has" }));
        }
    };
    // Local memory: spills and arrays that did not fit in registers.
    want("LDL", false);
    want("STL", false);
    if module.cards == Cards::Hopper {
        want("HGMMA", true);
        want("UTMALDG", true);
        want("HMMA", false);
    } else if ["linear", "conv", "attention"]
        .iter()
        .any(|op| module.name.starts_with(op))
    {
        want("HMMA.16816.F32.BF16", true);
        want("LDSM", true);
        want("LDGSTS", true);
    } else if [
        "norm",
        "rope",
        "modulation",
        "activation",
        "copy",
        "pixel_norm",
    ]
    .iter()
    .any(|op| module.name.starts_with(op))
    {
        want("LDG.E.128", true);
        want("STG.E.128", true);
    }
    wrong
}

#[test]
fn a_spill_a_missing_launch_bound_and_local_memory_are_caught() {
    let Some(nvrtc) = tools::nvrtc() else {
        return tools::skipped("no libnvrtc");
    };
    let compile =
        |nvrtc: &Nvrtc, text: &str, arch| nvrtc.compile_text("planted", text, arch, false).unwrap();
    let spill = "extern \"C\" __global__ void __launch_bounds__(1024, 2) planted(const float* x, float* y) {\n\
        float v[96];\n_Pragma(\"unroll\") for (int i = 0; i < 96; i++) v[i] = x[i * 1024 + threadIdx.x];\n__syncthreads();\n\
        _Pragma(\"unroll\") for (int i = 0; i < 96; i++) y[i * 1024 + threadIdx.x] = v[i] * v[95 - i];\n}\n";
    let compiled = compile(&nvrtc, spill, "sm_80");
    assert!(
        Resources::parse(&compiled.log)["planted"].spill_bytes > 0,
        "{}",
        compiled.log
    );
    if tools::has_disassembler() {
        let code = tools::instructions(&compiled.cubin);
        assert!(
            wrong_instructions(&MODULES[0], &code)
                .iter()
                .any(|why| why == "has LDL")
        );
    }
    let unbound = "extern \"C\" __global__ void planted(float* y) {\n\
        if (threadIdx.x < 128) asm volatile(\"setmaxnreg.dec.sync.aligned.u32 24;\");\n\
        else asm volatile(\"setmaxnreg.inc.sync.aligned.u32 240;\");\ny[threadIdx.x] = 1.f;\n}\n";
    let log = compile(&nvrtc, unbound, "sm_90a").log;
    assert!(
        !Resources::complaints(&log).is_empty(),
        "ptxas said nothing of setmaxnreg without bounds: {log}"
    );
}
