// The instructions of `ptx.cuh` and `hopper.cuh`, on the emulated machine.
#define DEVICE [[maybe_unused]] static
#define DEVICE_MEMBER
#define INFINITE INFINITY
#define KERNEL(...) void
#define DYNAMIC_SHARED(name) ::emulator::u8* name = ::emulator::machine.shared
#define SHARED static
#define GRID_CONSTANT const
#define UNROLL
#define KEEP_LOOP
#define threadIdx (::emulator::machine.current->thread)
#define blockIdx (::emulator::machine.block)
#define gridDim (::emulator::machine.blocks)
#define blockDim (::emulator::machine.threads)
#define __restrict__

DEVICE float bits_to_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
DEVICE unsigned float_to_bits(float value) {
    unsigned bits;
    memcpy(&bits, &value, 4);
    return bits;
}
DEVICE unsigned pack_bf16(float low, float high) { return (unsigned)emulator::bf16_round(high) << 16 | emulator::bf16_round(low); }
DEVICE float exp_of(float x) { return expf(x); }
DEVICE float exp2_fast(float x) { return exp2f(x); }
DEVICE double cospi(double x) { return cos(x * M_PI); }
DEVICE double sinpi(double x) { return sin(x * M_PI); }

template <class T>
static T shuffle_xor(T value, unsigned mask) {
    struct {
        T in, out;
        unsigned mask;
    } own = {value, value, mask};
    using Own = decltype(own);
    emulator::warp_together("shuffle", &own, [](std::vector<void*>& lanes) {
        for (unsigned lane = 0; lane < 32; lane++) {
            Own* own = (Own*)lanes[lane];
            own->out = ((Own*)lanes[lane ^ own->mask])->in;
        }
    });
    return own.out;
}
DEVICE void block_sync() {
    auto& m = emulator::machine;
    emulator::together(m.everyone, emulator::rank(), "the block's barrier", nullptr, [] {});
}
DEVICE void warp_sync() {
    emulator::warp_together("the warp's barrier", nullptr, [](std::vector<void*>&) {});
}

DEVICE unsigned shared_address(const void* at) {
    return emulator::SHARED_START + (unsigned)((const emulator::u8*)at - emulator::machine.shared);
}
DEVICE void copy_async16(unsigned to, const void* from, bool valid) {
    emulator::Copy copy = {to, from, valid};
    if (emulator::machine.late_copies)
        emulator::machine.current->open.push_back(copy);
    else
        emulator::copy_now(copy);
}
DEVICE void copy_async_commit() {
    auto* fiber = emulator::machine.current;
    fiber->groups.push_back(std::move(fiber->open));
    fiber->open.clear();
}
template <int PENDING>
static void copy_async_wait() {
    auto* fiber = emulator::machine.current;
    while (fiber->groups.size() > PENDING) {
        for (auto& copy : fiber->groups.front()) emulator::copy_now(copy);
        fiber->groups.pop_front();
    }
}
DEVICE void store_shared16(unsigned to, unsigned x, unsigned y, unsigned z, unsigned w) {
    unsigned values[4] = {x, y, z, w};
    memcpy(emulator::shared_at(to, 16), values, 16);
}

struct MatrixLoad {
    unsigned at;
    unsigned* r;
};
template <bool TRANSPOSED>
static void load_matrices(std::vector<void*>& lanes) {
    for (unsigned lane = 0; lane < 32; lane++)
        for (unsigned i = 0; i < 4; i++) {
            unsigned value = 0;
            for (unsigned half = 0; half < 2; half++) {
                unsigned row = lane / 4, column = lane % 4 * 2 + half;
                if (TRANSPOSED) std::swap(row, column);
                unsigned at = ((MatrixLoad*)lanes[8 * i + row])->at;
                if (at % 16) emulator::fail("ldmatrix: a row is not at a multiple of 16");
                emulator::u16 bits;
                memcpy(&bits, emulator::shared_at(at + 2 * column, 2), 2);
                value |= (unsigned)bits << (16 * half);
            }
            ((MatrixLoad*)lanes[lane])->r[i] = value;
        }
}
DEVICE void load_matrix4(unsigned (&r)[4], unsigned at) {
    MatrixLoad own = {at, r};
    emulator::warp_together("ldmatrix", &own, load_matrices<false>);
}
DEVICE void load_matrix4_transposed(unsigned (&r)[4], unsigned at) {
    MatrixLoad own = {at, r};
    emulator::warp_together("ldmatrix.trans", &own, load_matrices<true>);
}

struct Mma {
    float* d;
    const unsigned* a;
    unsigned b[2];
};
DEVICE void mma_now(std::vector<void*>& lanes) {
    float a[16][16], b[16][8];
    for (unsigned lane = 0; lane < 32; lane++) {
        Mma* own = (Mma*)lanes[lane];
        unsigned g = lane / 4, t = lane % 4;
        for (unsigned half = 0; half < 2; half++) {
            for (unsigned i = 0; i < 4; i++) a[g + 8 * (i & 1)][2 * t + half + 8 * (i >> 1)] = emulator::bf16_value((emulator::u16)(own->a[i] >> (16 * half)));
            for (unsigned i = 0; i < 2; i++) b[2 * t + half + 8 * i][g] = emulator::bf16_value((emulator::u16)(own->b[i] >> (16 * half)));
        }
    }
    for (unsigned lane = 0; lane < 32; lane++)
        for (unsigned i = 0; i < 4; i++) {
            unsigned row = lane / 4 + 8 * (i >> 1), column = lane % 4 * 2 + (i & 1);
            float sum = ((Mma*)lanes[lane])->d[i];
            for (unsigned k = 0; k < 16; k++) sum += a[row][k] * b[k][column];
            ((Mma*)lanes[lane])->d[i] = sum;
        }
}
DEVICE void mma_bf16(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    Mma own = {d, a, {b0, b1}};
    emulator::warp_together("mma", &own, mma_now);
}

DEVICE void barrier_init(unsigned bar, unsigned arrivals) {
    *emulator::barrier_at(bar) = emulator::Barrier{(emulator::u16)arrivals, (emulator::u16)arrivals, 0, 0};
}
DEVICE void barrier_init_done() {}
DEVICE void barrier_arrive(unsigned bar) {
    auto* b = emulator::barrier_at(bar);
    if (b->missing == 0) emulator::fail("more arrivals at a barrier than it expects");
    b->missing--;
    emulator::barrier_turn(b);
}
DEVICE void barrier_expect(unsigned bar, unsigned bytes) {
    emulator::barrier_at(bar)->bytes += (int)bytes;
    barrier_arrive(bar);
}
DEVICE void barrier_wait(unsigned bar, unsigned parity) {
    emulator::wait_until("a barrier in shared memory", [=] { return emulator::barrier_at(bar)->phase != (parity & 1); });
}
static void tma_load(unsigned to, const void* map, unsigned bar, int c0, int c1, int c2, int c3, int c4) {
    emulator::Transfer transfer{{}, to, bar, {c0, c1, c2, c3, c4}};
    memcpy(&transfer.map, map, sizeof(emulator::Map));
    if (to % 1024) emulator::fail("TMA: a swizzled box is not at a multiple of 1024");
    if (emulator::machine.late_copies)
        emulator::machine.transfers.push_back(transfer);
    else
        emulator::transfer_now(transfer);
}
DEVICE void tma_load4(unsigned to, const void* map, unsigned bar, int c0, int c1, int c2, int c3) { tma_load(to, map, bar, c0, c1, c2, c3, 0); }
DEVICE void tma_load5(unsigned to, const void* map, unsigned bar, int c0, int c1, int c2, int c3, int c4) { tma_load(to, map, bar, c0, c1, c2, c3, c4); }
template <int COUNT>
static void registers_more() {}
template <int COUNT>
static void registers_fewer() {}
DEVICE void named_arrive(unsigned id, unsigned threads) {
    emulator::Group& group = emulator::machine.named[id];
    if (++group.arrived == threads) {
        group.arrived = 0;
        group.generation++;
        emulator::machine.blocked = 0;
    }
}
DEVICE void named_sync(unsigned id, unsigned threads) {
    emulator::Group& group = emulator::machine.named[id];
    const unsigned generation = group.generation;
    named_arrive(id, threads);
    emulator::wait_until("a named barrier", [&] { return group.generation != generation; });
}

DEVICE emulator::Warpgroup& warpgroup() { return emulator::machine.warpgroups[emulator::rank() / 128]; }
DEVICE void wgmma_fence() {}
static void wgmma(unsigned columns, float* d, const unsigned* a, emulator::u64 left, emulator::u64 right, int keep) {
    struct Own {
        float* d;
        const unsigned* a;
    } own = {d, a};
    emulator::Warpgroup& w = warpgroup();
    emulator::together(w.together, emulator::rank() % 128, "wgmma", &own, [&] {
        emulator::Product product{columns, a != nullptr, keep != 0, left, right, {}, {}};
        for (void* lane : w.together.operands) {
            product.d.push_back(((Own*)lane)->d);
            product.a.push_back(((Own*)lane)->a);
        }
        if (emulator::machine.late_products)
            w.open.push_back(product);
        else
            emulator::product_now(product);
    });
}
template <int N>
static void wgmma_ss(float (&d)[N / 2], emulator::u64 left, emulator::u64 right, int keep) {
    wgmma(N, d, nullptr, left, right, keep);
}
template <int N>
static void wgmma_rs(float (&d)[N / 2], const unsigned (&a)[4], emulator::u64 right, int keep) {
    wgmma(N, d, a, 0, right, keep);
}
DEVICE void wgmma_commit() {
    emulator::Warpgroup& w = warpgroup();
    emulator::together(w.together, emulator::rank() % 128, "wgmma.commit", nullptr, [&] {
        w.groups.push_back(std::move(w.open));
        w.open.clear();
    });
}
template <int PENDING>
static void wgmma_wait() {
    emulator::Warpgroup& w = warpgroup();
    emulator::together(w.together, emulator::rank() % 128, "wgmma.wait", nullptr, [&] {
        while (w.groups.size() > PENDING) {
            for (auto& product : w.groups.front()) emulator::product_now(product);
            w.groups.pop_front();
        }
    });
}
