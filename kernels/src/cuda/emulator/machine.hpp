// A GPU in slow motion, for tests: the threads of a block are fibers, and everything that threads do
// together (barriers, shuffles, ldmatrix, mma, cp.async, TMA, wgmma) is done here by the book.
//
// Each launch has a seed. It shuffles the order of the threads and decides whether asynchronous
// work happens as early or as late as the rules allow: a wait that is missing, or memory that is
// used again too soon, gives another result or none. A block in which nobody can go on is a deadlock.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cmath>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#if !defined(__x86_64__)
#error "the emulator switches fibers with x86-64 instructions"
#endif

extern "C" void emulator_switch(void** from, void* to);
asm(".text\n.globl emulator_switch\nemulator_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp, (%rdi)\nmovq %rsi, %rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n");

namespace emulator {
typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

struct Dim {
    u32 x, y, z;
};

[[noreturn]] inline void fail(const std::string& why) {
    // The reply to the launch: a length that is not 0, then the words.
    u32 length = why.size();
    fwrite(&length, 4, 1, stdout);
    fwrite(why.data(), 1, length, stdout);
    fflush(stdout);
    _Exit(3);
}

inline float bf16_value(u16 bits) {
    u32 wide = (u32)bits << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}
inline u16 bf16_round(float value) {
    u32 bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (u16)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

// Threads that do something together; the last one to come does it for all.
struct Group {
    u32 size = 0, arrived = 0, generation = 0;
    const char* action = nullptr;
    std::vector<void*> operands;
};

struct Copy {
    u32 to;
    const void* from;
    bool valid;
};

// One product of a warpgroup: registers of all 128 threads, the rest is the same for all.
struct Product {
    u32 columns;
    bool left_in_registers, keep;
    u64 left, right;
    std::vector<float*> d;
    std::vector<const u32*> a;
};

struct Warpgroup {
    Group together;
    std::vector<Product> open;
    std::deque<std::vector<Product>> groups;
};

// What the emulator writes into the 128 bytes of a tensor map. Innermost dimension first.
struct Map {
    u64 base;
    u32 rank, element_bytes;
    u64 sizes[5];
    u64 strides[4];
    u32 box[5];
};
static_assert(sizeof(Map) <= 128, "a tensor map has 128 bytes");

struct Transfer {
    Map map;
    u32 to, bar;
    int at[5];
};

struct Fiber {
    void* stack_pointer = nullptr;
    u8* stack = nullptr;
    bool over = false;
    Dim thread{};
    std::vector<Copy> open;
    std::deque<std::vector<Copy>> groups;
};

constexpr size_t STACK_BYTES = 256 << 10;
// Where the dynamic part begins: not a multiple of 1024, as after some static shared memory.
constexpr u32 SHARED_START = 1040;

struct Machine {
    std::vector<Fiber> fibers;
    Fiber* current = nullptr;
    void* scheduler = nullptr;
    Dim block{}, blocks{}, threads{};
    std::function<void()> body;
    u8* shared = nullptr;
    u32 shared_bytes = 0;
    Group everyone;
    std::vector<Group> warps;
    std::vector<Warpgroup> warpgroups;
    std::map<u32, Group> named;
    std::deque<Transfer> transfers;
    u64 random = 1;
    bool late_copies = false, late_products = false;
    u64 blocked = 0;
};
inline Machine machine;

inline u32 rank() { return machine.current->thread.x; }

inline void yield() { emulator_switch(&machine.current->stack_pointer, machine.scheduler); }

inline void transfer_now(const Transfer& transfer);

template <class Condition>
void wait_until(const char* what, Condition done) {
    while (!done()) {
        if (++machine.blocked > 4 * machine.fibers.size()) {
            if (machine.transfers.empty()) fail(std::string("deadlock: nobody can go on, thread ") + std::to_string(rank()) + " waits for " + what);
            transfer_now(machine.transfers.front());
            machine.transfers.pop_front();
            machine.blocked = 0;
        }
        yield();
    }
    machine.blocked = 0;
}

template <class Work>
void together(Group& group, u32 index, const char* action, void* operand, Work work) {
    if (group.arrived == 0) group.action = action;
    if (strcmp(group.action, action)) fail(std::string("threads of a group disagree: ") + group.action + " and " + action);
    group.operands[index] = operand;
    const u32 generation = group.generation;
    if (++group.arrived == group.size) {
        work();
        group.arrived = 0;
        group.generation++;
        machine.blocked = 0;
        return;
    }
    wait_until(action, [&] { return group.generation != generation; });
}

template <class Work>
void warp_together(const char* action, void* operand, Work work) {
    Group& group = machine.warps[rank() / 32];
    together(group, rank() % 32, action, operand, [&] { work(group.operands); });
}

// Bytes of shared memory at an address that a kernel computed.
inline u8* shared_at(u32 address, u32 bytes) {
    if (address < SHARED_START || address - SHARED_START + bytes > machine.shared_bytes)
        fail("shared memory: " + std::to_string(bytes) + " bytes at " + std::to_string(address) + " of " + std::to_string(machine.shared_bytes));
    return machine.shared + (address - SHARED_START);
}

inline u32 next_random() {
    machine.random = machine.random * 6364136223846793005ull + 1442695040888963407ull;
    return machine.random >> 33;
}

inline void copy_now(const Copy& copy) {
    u8* to = shared_at(copy.to, 16);
    if (copy.to % 16 || (copy.valid && (u64)copy.from % 16)) fail("cp.async: an address is not a multiple of 16");
    if (copy.valid)
        memcpy(to, copy.from, 16);
    else
        memset(to, 0, 16);
}

struct Barrier {
    u16 arrivals, missing;
    u32 phase : 1;
    int bytes : 31;
};
static_assert(sizeof(Barrier) == 8, "a barrier has 8 bytes");

inline Barrier* barrier_at(u32 address) {
    if (address % 8) fail("a barrier is not at a multiple of 8");
    return (Barrier*)shared_at(address, 8);
}
inline void barrier_turn(Barrier* bar) {
    if (bar->missing == 0 && bar->bytes == 0) {
        bar->phase ^= 1;
        bar->missing = bar->arrivals;
        machine.blocked = 0;
    }
}

// Chunks of 16 bytes exchange places within 1024 bytes, by absolute address: bits 4-6 ^= bits 7-9.
inline u32 swizzle128(u32 address) { return address ^ ((address >> 7 & 7) << 4); }

inline void transfer_now(const Transfer& t) {
    const Map& m = t.map;
    const u32 row_bytes = m.box[0] * m.element_bytes;
    u32 rows = 1;
    for (u32 d = 1; d < m.rank; d++) rows *= m.box[d];
    for (u32 row = 0; row < rows; row++) {
        bool inside = true;
        u64 from = m.base;
        u32 rest = row;
        for (u32 d = 1; d < m.rank; d++) {
            int64_t at = (int64_t)t.at[d] + rest % m.box[d];
            rest /= m.box[d];
            inside = inside && at >= 0 && at < (int64_t)m.sizes[d];
            from += (u64)at * m.strides[d - 1];
        }
        for (u32 i = 0; i < m.box[0]; i++) {
            int64_t at = (int64_t)t.at[0] + i;
            bool here = inside && at >= 0 && at < (int64_t)m.sizes[0];
            u8* to = shared_at(swizzle128(t.to + row * row_bytes + i * m.element_bytes), m.element_bytes);
            if (here)
                memcpy(to, (const u8*)(from + (u64)at * m.element_bytes), m.element_bytes);
            else
                memset(to, 0, m.element_bytes);
        }
    }
    Barrier* bar = barrier_at(t.bar);
    bar->bytes -= rows * row_bytes;
    barrier_turn(bar);
}

inline float operand(u32 address) {
    u16 bits;
    memcpy(&bits, shared_at(swizzle128(address), 2), 2);
    return bf16_value(bits);
}

// d[64 x N] (+)= a[64 x 16] b[16 x N]. K-major operands in shared memory, or the left one in
// registers and the right one N-major ("transposed").
inline void product_now(const Product& p) {
    struct Operand {
        u32 start, leading, stride;
        explicit Operand(u64 d) : start((d & 0x3fff) << 4), leading((d >> 16 & 0x3fff) << 4), stride((d >> 32 & 0x3fff) << 4) {
            if (d >> 62 != 1) fail("a wgmma descriptor does not say 128-byte swizzle");
        }
        float along_k(u32 row, u32 k) const { return operand(start + row / 8 * stride + row % 8 * 128 + k * 2); }
        float along_n(u32 n, u32 k) const { return operand(start + n / 64 * leading + k / 8 * stride + k % 8 * 128 + n % 64 * 2); }
    };
    std::vector<float> a(64 * 16), b(16 * p.columns);
    if (p.left_in_registers) {
        for (u32 t = 0; t < 128; t++)
            for (u32 i = 0; i < 4; i++)
                for (u32 half = 0; half < 2; half++) {
                    u32 row = t / 32 * 16 + t % 32 / 4 + 8 * (i & 1), k = t % 4 * 2 + half + 8 * (i >> 1);
                    a[row * 16 + k] = bf16_value((u16)(p.a[t][i] >> (16 * half)));
                }
    } else {
        Operand left(p.left);
        for (u32 row = 0; row < 64; row++)
            for (u32 k = 0; k < 16; k++) a[row * 16 + k] = left.along_k(row, k);
    }
    Operand right(p.right);
    for (u32 n = 0; n < p.columns; n++)
        for (u32 k = 0; k < 16; k++) b[k * p.columns + n] = p.left_in_registers ? right.along_n(n, k) : right.along_k(n, k);
    for (u32 t = 0; t < 128; t++)
        for (u32 i = 0; i < p.columns / 2; i++) {
            u32 row = t / 32 * 16 + t % 32 / 4 + 8 * (i >> 1 & 1), n = 8 * (i >> 2) + 2 * (t % 4) + (i & 1);
            float sum = p.keep ? p.d[t][i] : 0.f;
            for (u32 k = 0; k < 16; k++) sum += a[row * 16 + k] * b[k * p.columns + n];
            p.d[t][i] = sum;
        }
}

inline void fiber_main() {
    machine.body();
    machine.current->over = true;
    machine.blocked = 0;
    yield();
    abort();
}

inline void prepare(Fiber& fiber, u32 thread) {
    if (!fiber.stack) fiber.stack = (u8*)malloc(STACK_BYTES);
    void** top = (void**)(fiber.stack + STACK_BYTES - 64);
    *--top = nullptr;
    *--top = (void*)&fiber_main;
    for (int i = 0; i < 6; i++) *--top = nullptr;
    fiber.stack_pointer = top;
    fiber.over = false;
    fiber.thread = Dim{thread, 0, 0};
    fiber.open.clear();
    fiber.groups.clear();
}

inline Group group_of(u32 size) {
    Group group;
    group.size = size;
    group.operands.resize(size);
    return group;
}

inline void run_block() {
    Machine& m = machine;
    const u32 count = m.threads.x;
    m.fibers.resize(count);
    for (u32 t = 0; t < count; t++) prepare(m.fibers[t], t);
    m.everyone = group_of(count);
    m.warps.assign(count / 32, group_of(32));
    m.warpgroups.clear();
    for (u32 w = 0; w < count / 128; w++) {
        m.warpgroups.emplace_back();
        m.warpgroups.back().together = group_of(128);
    }
    m.named.clear();
    m.transfers.clear();
    m.blocked = 0;
    // Exactly as much as was asked for, filled with NaN: what is read before it was written shows.
    m.shared = (u8*)aligned_alloc(16, (m.shared_bytes + 15) / 16 * 16 + 16);
    memset(m.shared, 0xff, m.shared_bytes);
    std::vector<u32> order(count);
    for (u32 t = 0; t < count; t++) order[t] = t;
    for (u32 left = count; left > 0;) {
        if (m.random > 1)
            for (u32 t = count; t > 1; t--) std::swap(order[t - 1], order[next_random() % t]);
        for (u32 t : order) {
            Fiber& fiber = m.fibers[t];
            if (fiber.over) continue;
            m.current = &fiber;
            emulator_switch(&m.scheduler, fiber.stack_pointer);
            left -= fiber.over;
        }
    }
    if (!m.transfers.empty()) fail("a block ended while TMA was under way");
    for (Warpgroup& w : m.warpgroups)
        if (!w.open.empty() || !w.groups.empty()) fail("a block ended while a wgmma was under way");
    free(m.shared);
}

// Seed 0 runs threads in order and does everything at once. Other seeds shuffle; bit 0 makes copies late,
// bit 1 products.
inline void launch(Dim blocks, Dim threads, u32 shared_bytes, u64 seed, std::function<void()> body) {
    Machine& m = machine;
    if (threads.y != 1 || threads.z != 1 || threads.x % 32 || threads.x > 1024) fail("blocks have one dimension, whole warps, at most 1024 threads");
    m.blocks = blocks, m.threads = threads, m.shared_bytes = shared_bytes;
    m.random = seed ? seed * 2654435761u + 12345 : 1, m.late_copies = seed & 1, m.late_products = seed & 2;
    m.body = std::move(body);
    for (u32 z = 0; z < blocks.z; z++)
        for (u32 y = 0; y < blocks.y; y++)
            for (u32 x = 0; x < blocks.x; x++) {
                m.block = Dim{x, y, z};
                run_block();
            }
}
}  // namespace emulator
