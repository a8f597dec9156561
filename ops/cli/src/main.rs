//! The one binary of Dailies; everything is in the library beside it.

fn main() -> std::process::ExitCode {
    dailies::main()
}
