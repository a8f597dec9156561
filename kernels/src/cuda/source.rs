//! The text of a module: for NVRTC one file without includes, for the emulator a namespace.

use super::catalogue::{Act, Cards, Module};
use super::wgmma;

const PRELUDE: &str = include_str!("source/prelude.cuh");
const PTX: &str = include_str!("source/ptx.cuh");
const HOPPER: &str = include_str!("source/hopper.cuh");
const LAYOUT: &str = include_str!("source/layout.cuh");
const MACHINE: &str = include_str!("emulator/machine.hpp");
const INSTRUCTIONS: &str = include_str!("emulator/instructions.hpp");
const MAIN: &str = include_str!("emulator/main.hpp");

/// What differs between modules: the type of activations, constants, then the sources.
fn body(module: &Module) -> String {
    let act = match module.act {
        Act::F32 => "float",
        Act::BF16 => "bf16",
    };
    let mut text = format!("typedef {act} act;\n");
    for (name, value) in module.constants {
        text += &format!("constexpr u32 {name} = {value};\n");
    }
    text + &module.parts.concat()
}

/// What NVRTC compiles.
pub fn module_source(module: &Module) -> String {
    let hopper = match module.cards {
        Cards::All => String::new(),
        Cards::Hopper => [HOPPER, &wgmma::source()].concat(),
    };
    [PTX, PRELUDE, LAYOUT, &hopper, &body(module)].concat()
}

/// A C++ program that holds all `modules` and runs them by command; see `emulator/main.hpp`.
pub fn emulation<'a>(modules: impl IntoIterator<Item = &'a Module>) -> String {
    let mut text = [MACHINE, INSTRUCTIONS, PRELUDE, LAYOUT].concat();
    let mut table = String::new();
    for module in modules {
        text += &format!("namespace {} {{\n{}}}\n", module.name, body(module));
        for entry in module.entries {
            let name = module.name;
            table += &format!("    {{\"{name}::{entry}\", call<{name}::{entry}>}},\n");
        }
    }
    let end = "const size_t kernel_count = sizeof(kernels) / sizeof(kernels[0]);\n}\nint main() { return emulator::serve(); }\n";
    format!("{text}{MAIN}namespace emulator {{\nconst Named kernels[] = {{\n{table}}};\n{end}")
}
