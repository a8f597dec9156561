//! NVRTC: from source text to a cubin for one architecture.

use std::{
    ffi::{CStr, CString},
    panic::{AssertUnwindSafe, catch_unwind},
};

use cudarc::nvrtc::{result, sys};

use super::catalogue::Module;
use super::libs::{Libraries, Library};
use super::source::module_source;
use crate::KernelError;

/// A compiler that is there.
#[derive(Debug, Clone)]
pub struct Nvrtc {
    version: (i32, i32),
}

/// What a compilation gave.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// Machine code for one architecture.
    pub cubin: Vec<u8>,
    /// What the compiler and ptxas said, resources included.
    pub log: String,
}

impl Nvrtc {
    /// The compiler, when its library was found.
    ///
    /// # Errors
    /// [`KernelError::LibraryMissing`], [`KernelError::LibraryOld`].
    #[expect(unsafe_code, reason = "asking a foreign library for its version")]
    pub fn new(libraries: &Libraries) -> Result<Self, KernelError> {
        libraries.need(Library::Nvrtc)?;
        let version = guarded(|| {
            let (mut major, mut minor) = (0, 0);
            // SAFETY: the library is there, both pointers are to integers that live through the call.
            unsafe { sys::nvrtcVersion(&mut major, &mut minor) };
            (major, minor)
        })?;
        Ok(Self { version })
    }

    /// Version of the compiler, part of a cubin's key.
    pub fn version(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    /// Compiles a module for an architecture.
    ///
    /// # Errors
    /// [`KernelError::Compile`] with the compiler's own words.
    pub fn compile(&self, module: &Module, arch: &str) -> Result<Compiled, KernelError> {
        self.compile_text(module.name, &module_source(module), arch, module.fast_math)
    }

    /// Compiles a text under a name.
    ///
    /// # Errors
    /// [`KernelError::Compile`] with the compiler's own words.
    pub fn compile_text(
        &self,
        name: &str,
        text: &str,
        arch: &str,
        fast_math: bool,
    ) -> Result<Compiled, KernelError> {
        let failed = |log: String| KernelError::Compile {
            kernel: name.into(),
            arch: arch.into(),
            log,
        };
        let c_string = |text: &str| CString::new(text).map_err(|error| failed(error.to_string()));
        let (text, file) = (c_string(text)?, c_string(&format!("{name}.cu"))?);
        let compiled = guarded(|| {
            let program = result::create_program(&text, Some(&file));
            let program = program.map_err(|error| format!("{error:?}"))?;
            let compiled = compile_program(program, &options(arch, fast_math));
            destroy(program);
            compiled
        })?;
        compiled.map_err(failed)
    }
}

/// The binding panics when the library lacks a function.
fn guarded<R>(work: impl FnOnce() -> R) -> Result<R, KernelError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| {
        let why = "it lacks functions of CUDA 12";
        KernelError::old(Library::Nvrtc, why.into())
    })
}

/// Strings, because the safe interface turns `use_fast_math` into another option.
pub(super) fn options(arch: &str, fast_math: bool) -> Vec<String> {
    let mut options = vec![
        format!("--gpu-architecture={arch}"),
        "--std=c++17".into(),
        "--ptxas-options=-v".into(),
        "-lineinfo".into(),
    ];
    if fast_math {
        options.push("--use_fast_math".into());
    }
    options
}

#[expect(
    unsafe_code,
    reason = "calls of a C library with a program that it made"
)]
fn compile_program(program: sys::nvrtcProgram, options: &[String]) -> Result<Compiled, String> {
    // SAFETY: the program was made by the library and is destroyed after this.
    unsafe {
        let outcome = result::compile_program(program, options);
        let log = result::get_program_log(program).unwrap_or_default();
        let log = match log.is_empty() {
            true => String::new(),
            false => CStr::from_ptr(log.as_ptr()).to_string_lossy().into_owned(),
        };
        outcome.map_err(|error| format!("{error:?}\n{log}"))?;
        let mut size = 0;
        let said = |error| format!("{error:?}");
        sys::nvrtcGetCUBINSize(program, &mut size)
            .result()
            .map_err(said)?;
        let mut cubin = vec![0u8; size];
        sys::nvrtcGetCUBIN(program, cubin.as_mut_ptr().cast())
            .result()
            .map_err(said)?;
        Ok(Compiled { cubin, log })
    }
}

#[expect(
    unsafe_code,
    reason = "calls of a C library with a program that it made"
)]
fn destroy(program: sys::nvrtcProgram) {
    // SAFETY: made by the library, not used after this. There is nothing to do when it fails.
    let _ = unsafe { result::destroy_program(program) };
}
