//! Matrix products through cublasLt, when it is there: `y = x W^T + bias`, gelu or added to y.
//!
//! The library is column-major, so row-major y [m, n] is its D [n, m] = W^T-transposed times x. A plan is
//! the first candidate of the heuristic and is kept: another plan would change bits.

use std::{
    collections::HashMap,
    ffi::c_void,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
};

use cudarc::cublaslt::{
    result::{self, CublasError},
    sys::{self, cublasLtMatmulDescAttributes_t as Attribute},
};

use super::array::{Array, Element};
use super::driver::Driver;
use super::launch::Machine;
use super::libs::{Libraries, Library};
use crate::KernelError;

/// Scratch memory that plans may use.
const WORKSPACE_BYTES: u64 = 32 << 20;

/// The library's word for a transposed operand, of which the binding lacks the name.
const TRANSPOSED: i32 = 1;

/// Everything that a plan depends on besides device and library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PlanKey {
    /// Rows of x and y.
    pub m: usize,
    /// Rows of W, columns of y.
    pub n: usize,
    /// Columns of x and W.
    pub k: usize,
    /// Type of y.
    pub out: Element,
    /// Whether a bias is added.
    pub bias: bool,
    /// What happens to the product.
    pub after: After,
}

/// What the library can do after a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum After {
    /// y = z
    Nothing,
    /// y = gelu(z), tanh form
    Gelu,
    /// y += z
    Add,
}

/// A chosen algorithm with its descriptors. They live as long as the process.
#[derive(Clone, Copy)]
struct Plan {
    operation: sys::cublasLtMatmulDesc_t,
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// The library on one device.
pub struct Blas {
    driver: Arc<Driver>,
    handle: sys::cublasLtHandle_t,
    workspace: u64,
    version: usize,
    plans: Mutex<HashMap<PlanKey, Plan>>,
}

#[expect(
    unsafe_code,
    reason = "handles of the library may be used from any thread"
)]
// SAFETY: the handle is thread-safe by the library's word; plans are behind a mutex.
unsafe impl Send for Blas {}
#[expect(
    unsafe_code,
    reason = "handles of the library may be used from any thread"
)]
// SAFETY: as above.
unsafe impl Sync for Blas {}

fn failed(op: &'static str) -> impl Fn(CublasError) -> KernelError {
    move |error| KernelError::Driver {
        op,
        code: error.0 as u32,
        name: format!("{:?}", error.0),
    }
}

impl Blas {
    /// Starts the library on a device.
    ///
    /// # Errors
    /// [`KernelError::LibraryMissing`], [`KernelError::LibraryOld`], [`KernelError::OutOfMemory`], [`KernelError::Driver`].
    #[expect(unsafe_code, reason = "asking a foreign library for its version")]
    pub fn start(libraries: &Libraries, driver: Arc<Driver>) -> Result<Self, KernelError> {
        libraries.need(Library::CublasLt)?;
        driver.bind()?;
        let handle = catch_unwind(AssertUnwindSafe(result::create_handle));
        let handle = handle
            .map_err(|_| KernelError::missing(Library::CublasLt))?
            .map_err(failed("cublasLt"))?;
        // SAFETY: the library is there.
        let version = unsafe { sys::cublasLtGetVersion() };
        let workspace = driver.allocate(WORKSPACE_BYTES)?;
        Ok(Self {
            driver,
            handle,
            workspace,
            version,
            plans: Mutex::default(),
        })
    }

    /// Whether there is a plan for a product of these sizes; the heuristic is asked once for each.
    pub fn has_plan(&self, key: PlanKey) -> bool {
        let aligned = key.k.is_multiple_of(8) && key.n.is_multiple_of(8);
        if !aligned || key.m == 0 || self.driver.bind().is_err() {
            return false;
        }
        let mut plans = self
            .plans
            .lock()
            .expect("no thread panics while it uses a plan");
        self.plan(&mut plans, key).is_ok()
    }

    /// Version of the library, part of the device's class.
    pub fn version(&self) -> usize {
        self.version
    }

    /// `y = x W^T + bias`, then what `after` says. x bf16 [m, k], W bf16 [n, k], bias of y's type [n],
    /// y bf16 or f32 [m, n].
    ///
    /// # Errors
    /// [`KernelError::Shape`], [`KernelError::Driver`]; [`KernelError::Unsupported`] for a k that is no
    /// multiple of 8.
    #[expect(
        unsafe_code,
        reason = "calls of the library with addresses of arrays whose shapes were checked"
    )]
    pub fn linear(
        &self,
        x: &Array,
        w: &Array,
        bias: Option<&Array>,
        after: After,
        y: &Array,
    ) -> Result<(), KernelError> {
        const OP: &str = "linear";
        let (m, n, k) = (x.row_count(), w.row_count(), x.last_dim());
        w.expect(OP, "weight", Element::BF16, &[n, k])?;
        x.expect(OP, "x", Element::BF16, &[m, k])?;
        y.expect(OP, "y", y.element(), &[m, n])?;
        if let Some(bias) = bias {
            bias.expect(OP, "bias", y.element(), &[n])?;
        }
        if !k.is_multiple_of(8) || !n.is_multiple_of(8) {
            return Err(KernelError::unsupported(
                OP,
                format!("{n} x {k} through cublasLt"),
            ));
        }
        self.driver.bind()?;
        // Held until the call has read the bias's address out of the plan's descriptor.
        let mut plans = self
            .plans
            .lock()
            .expect("no thread panics while it uses a plan");
        let plan = self.plan(
            &mut plans,
            PlanKey {
                m,
                n,
                k,
                out: y.element(),
                bias: bias.is_some(),
                after,
            },
        )?;
        if let Some(bias) = bias {
            set(
                plan.operation,
                Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                &bias.address(),
            )?;
        }
        let (one, beta) = (1.0f32, if after == After::Add { 1.0f32 } else { 0.0 });
        let at = |array: &Array| array.address() as *const c_void;
        // SAFETY: all arrays have the plan's shapes and live until their memory's owner waits for the device.
        unsafe {
            result::matmul(
                self.handle,
                plan.operation,
                (&raw const one).cast(),
                (&raw const beta).cast(),
                at(w),
                plan.layouts[0],
                at(x),
                plan.layouts[1],
                at(y),
                plan.layouts[2],
                at(y).cast_mut(),
                plan.layouts[2],
                &plan.algorithm,
                self.workspace as *mut c_void,
                WORKSPACE_BYTES as usize,
                self.driver.stream().cast(),
            )
        }
        .map_err(failed("cublasLtMatmul"))
    }

    fn plan(&self, plans: &mut HashMap<PlanKey, Plan>, key: PlanKey) -> Result<Plan, KernelError> {
        if let Some(plan) = plans.get(&key) {
            return Ok(*plan);
        }
        let plan = make_plan(self.handle, key)?;
        plans.insert(key, plan);
        Ok(plan)
    }
}

#[expect(
    unsafe_code,
    reason = "calls of the library with descriptors that it made"
)]
fn make_plan(handle: sys::cublasLtHandle_t, key: PlanKey) -> Result<Plan, KernelError> {
    use sys::{
        cublasComputeType_t as Compute, cublasLtEpilogue_t as Epilogue, cudaDataType_t as Type,
    };
    let PlanKey {
        m,
        n,
        k,
        out,
        bias,
        after,
    } = key;
    let operation = result::create_matmul_desc(Compute::CUBLAS_COMPUTE_32F, Type::CUDA_R_32F)
        .map_err(failed("plan"))?;
    let epilogue = match (after, bias) {
        (After::Gelu, true) => Epilogue::CUBLASLT_EPILOGUE_GELU_BIAS,
        (After::Gelu, false) => Epilogue::CUBLASLT_EPILOGUE_GELU,
        (_, true) => Epilogue::CUBLASLT_EPILOGUE_BIAS,
        (_, false) => Epilogue::CUBLASLT_EPILOGUE_DEFAULT,
    };
    set(
        operation,
        Attribute::CUBLASLT_MATMUL_DESC_TRANSA,
        &TRANSPOSED,
    )?;
    set(
        operation,
        Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE,
        &epilogue,
    )?;
    let out = if out == Element::BF16 {
        Type::CUDA_R_16BF
    } else {
        Type::CUDA_R_32F
    };
    let layout = |kind, rows: usize, columns: usize| {
        result::create_matrix_layout(kind, rows as u64, columns as u64, rows as i64)
            .map_err(failed("plan"))
    };
    let layouts = [
        layout(Type::CUDA_R_16BF, k, n)?,
        layout(Type::CUDA_R_16BF, k, m)?,
        layout(out, n, m)?,
    ];
    let preference = result::create_matmul_pref().map_err(failed("plan"))?;
    let most = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
    let bytes = WORKSPACE_BYTES as usize;
    // SAFETY: all descriptors were just made; the preference is destroyed once, after its last use.
    let found = unsafe {
        let limited = result::set_matmul_pref_attribute(
            preference,
            most,
            (&raw const bytes).cast(),
            size_of::<usize>(),
        );
        let found = limited.and_then(|()| {
            let [a, b, c] = layouts;
            result::get_matmul_algo_heuristic(handle, operation, a, b, c, c, preference)
        });
        let _ = result::destroy_matmul_pref(preference);
        found
    };
    Ok(Plan {
        operation,
        layouts,
        algorithm: found.map_err(failed("plan"))?.algo,
    })
}

#[expect(unsafe_code, reason = "the library copies the value's bytes")]
fn set<T>(
    operation: sys::cublasLtMatmulDesc_t,
    attribute: Attribute,
    value: &T,
) -> Result<(), KernelError> {
    // SAFETY: the descriptor is alive, the value lives through the call, and its size is told.
    unsafe {
        result::set_matmul_desc_attribute(
            operation,
            attribute,
            (&raw const *value).cast(),
            size_of::<T>(),
        )
    }
    .map_err(failed("plan"))
}
