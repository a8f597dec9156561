//! What goes to stdout. A reader that has seen enough, such as `head`, ends a command quietly.

use std::{
    fmt::Arguments,
    io::{ErrorKind, Write},
    process::exit,
};

/// `std::println`, without its panic.
macro_rules! println {
    () => { $crate::out::write(format_args!("\n")) };
    ($($said:tt)*) => { $crate::out::write(format_args!("{}\n", format_args!($($said)*))) };
}

/// `std::print`, without its panic.
macro_rules! print {
    ($($said:tt)*) => { $crate::out::write(format_args!($($said)*)) };
}

/// Writes all of it, or ends the process: with success when nobody reads any more.
pub fn write(said: Arguments<'_>) {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_fmt(said).and_then(|()| stdout.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => exit(0),
        Err(error) => {
            eprintln!("error: cannot write to stdout: {error}");
            exit(1)
        }
    }
}
