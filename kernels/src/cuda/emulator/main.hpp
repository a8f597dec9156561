// The emulator's door: commands on standard input, answers on standard output, little-endian.
// A alloc, F free, W write, R read, S fill, L launch. An answer to L is a length and, when not 0, why.
#include <unistd.h>

namespace emulator {
using Call = void (*)(std::vector<std::vector<u8>>&);

template <class T>
T argument(const std::vector<u8>& bytes) {
    if (bytes.size() != sizeof(T)) fail("an argument has " + std::to_string(bytes.size()) + " bytes where the kernel takes " + std::to_string(sizeof(T)));
    T value;
    memcpy(&value, bytes.data(), sizeof(T));
    return value;
}

template <auto KERNEL_FUNCTION, class... A, size_t... I>
void call_with(void (*)(A...), std::vector<std::vector<u8>>& arguments, std::index_sequence<I...>) {
    if (arguments.size() != sizeof...(A)) fail("a kernel of " + std::to_string(sizeof...(A)) + " arguments got " + std::to_string(arguments.size()));
    std::tuple<std::remove_cv_t<A>...> values(argument<std::remove_cv_t<A>>(arguments[I])...);
    machine.body = [&] { KERNEL_FUNCTION(std::get<I>(values)...); };
    launch(machine.blocks, machine.threads, machine.shared_bytes, machine.random, machine.body);
}
template <class... A>
constexpr size_t arity(void (*)(A...)) {
    return sizeof...(A);
}
template <auto KERNEL_FUNCTION>
void call(std::vector<std::vector<u8>>& arguments) {
    call_with<KERNEL_FUNCTION>(KERNEL_FUNCTION, arguments, std::make_index_sequence<arity(KERNEL_FUNCTION)>());
}

struct Named {
    const char* name;
    Call call;
};
extern const Named kernels[];
extern const size_t kernel_count;

inline void take(void* to, size_t bytes) {
    if (fread(to, 1, bytes, stdin) != bytes) _Exit(0);
}
template <class T>
T take() {
    T value;
    take(&value, sizeof(T));
    return value;
}
inline void give(const void* from, size_t bytes) { fwrite(from, 1, bytes, stdout); }

inline void take_launch() {
    std::string name(take<u32>(), ' ');
    take(name.data(), name.size());
    u32 shape[5];
    take(shape, sizeof(shape));
    machine.blocks = Dim{shape[0], shape[1], shape[2]};
    machine.threads = Dim{shape[3], 1, 1};
    machine.shared_bytes = shape[4];
    machine.random = take<u64>();
    std::vector<std::vector<u8>> arguments(take<u32>());
    for (auto& argument : arguments) {
        argument.resize(take<u32>());
        take(argument.data(), argument.size());
    }
    for (size_t i = 0; i < kernel_count; i++)
        if (name == kernels[i].name) {
            kernels[i].call(arguments);
            u32 well = 0;
            give(&well, 4);
            return;
        }
    fail("there is no kernel " + name);
}

inline int serve() {
    for (;;) {
        switch (take<u8>()) {
            case 'A': {
                u64 bytes = take<u64>();
                void* memory = nullptr;
                if (posix_memalign(&memory, 256, bytes ? bytes : 1)) memory = nullptr;
                give(&memory, 8);
                break;
            }
            case 'F': free((void*)take<u64>()); break;
            case 'W': {
                u64 at = take<u64>(), bytes = take<u64>();
                take((void*)at, bytes);
                break;
            }
            case 'R': {
                u64 at = take<u64>(), bytes = take<u64>();
                give((void*)at, bytes);
                break;
            }
            case 'S': {
                u64 at = take<u64>(), bytes = take<u64>();
                memset((void*)at, take<u8>(), bytes);
                break;
            }
            case 'L': take_launch(); break;
            default: return 2;
        }
        fflush(stdout);
    }
}
}  // namespace emulator
