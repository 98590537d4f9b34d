// demo-page: a stack that does not fit its memory, made, read and run here, and compared with itself in full.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>

#include "host/file.h"
#include "samples/vkmoe/commands.h"
#include "samples/vkmoe/random_stack.h"

namespace vkmoe::program {
namespace {

using Clock = std::chrono::steady_clock;
double secondsSince(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

constexpr uint32_t kDim = 512, kTokens = 64;
constexpr int kTurns = 5;

// The file leaves the system's cache, so that the next reads come from the disk.
void forgetFile(const std::string& path) {
    int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    ::fsync(fd);
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    ::close(fd);
}

// Bytes a second of reading the file from front to back, a mebibyte at a time.
Result<double> plainRead(const std::string& path) {
    VKMOE_TRY(file, openFile(path));
    std::vector<std::byte> piece(1 << 20);
    auto start = Clock::now();
    for (uint64_t at = 0; at < file->size(); at += piece.size())
        VKMOE_CHECK(file->read(at, std::span(piece).first(std::min<uint64_t>(piece.size(), file->size() - at))));
    return double(file->size()) / secondsSince(start);
}

// A file without a name, which is gone with the process, however that ends. Where the system has no other way to it, it
// keeps its name until the end of its scope.
class Nameless {
public:
    explicit Nameless(const std::string& path) : path_(path), file_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
        const std::string other = fmt::format("/proc/self/fd/{}", file_);
        if (::access(other.c_str(), R_OK) != 0 || ::unlink(path.c_str()) != 0) return;
        path_ = other;
        named_ = false;
    }
    Nameless(const Nameless&) = delete;
    Nameless& operator=(const Nameless&) = delete;
    ~Nameless() {
        if (file_ >= 0) ::close(file_);
        if (named_) ::unlink(path_.c_str());
    }
    const std::string& path() const { return path_; }

private:
    std::string path_;
    int file_;
    bool named_ = true;
};

std::vector<float> tokens() {
    std::vector<float> x(size_t{kTokens} * kDim);
    for (uint32_t i = 0; i < x.size(); ++i) x[i] = float((i * 2654435769u) >> 8) * 0x1p-23f - 1;
    return x;
}

struct Rates {
    double plain = 0, pages = 0;
};

Result<Stack> openWhole(Engine& engine, const std::string& path) {
    return Stack::open(engine, path, PagingOptions{.policy = Policy::automatic, .placement = Placement::flat});
}

// How fast the file comes from a cold disk, plainly and as pages, the faster of alternating turns: a disk that others
// use, or that keeps what it read, is not the same twice.
Result<Rates> coldRates(Engine& engine, const std::string& path) {
    Rates rates;
    for (int turn = 0; turn < kTurns; ++turn) {
        forgetFile(path);
        VKMOE_TRY(plain, plainRead(path));
        forgetFile(path);
        VKMOE_TRY(stack, openWhole(engine, path));
        auto work = stack.pager()->reading();
        rates.plain = std::max(rates.plain, plain);
        rates.pages = std::max(rates.pages, work.seconds > 0 ? double(work.bytes) / work.seconds : 0);
    }
    return rates;
}

// Everything in memory: the results that all others must equal.
Result<StackResult> runWhole(Engine& engine, const std::string& path) {
    VKMOE_TRY(stack, openWhole(engine, path));
    return stack.forward(tokens(), {.max_batch = 1});
}

Json asJson(const Rates& rates, const StackResult& whole, const StackResult& paged, const Stack& stack, bool same) {
    return {{"plain_read_bytes_per_second", rates.plain},
            {"page_in_bytes_per_second", rates.pages},
            {"share_of_plain_read", rates.plain > 0 ? rates.pages / rates.plain : 0},
            {"seconds_in_memory", whole.seconds},
            {"seconds_paged", paged.seconds},
            {"tokens", paged.tokens},
            {"host_waits_in_memory", whole.host_waits},
            {"host_waits_paged", paged.host_waits},
            {"pages", pagesJson(stack, paged)},
            {"same_bits", same}};
}

void report(const Rates& rates, const StackResult& whole, const StackResult& paged) {
    fmt::print("cold disk: pages come in at {}/s, {:.0f} % of the {}/s of a plain read\n", readableBytes(rates.pages),
               100 * rates.pages / rates.plain, readableBytes(rates.plain));
    fmt::print("all in memory: {} tokens, one at a time, in {:.3f} s; the host waited {} times, for results\n",
               whole.tokens, whole.seconds, whole.host_waits);
    fmt::print("a quarter in memory: {:.3f} s; the host waited {} times, for each layer's routes\n{}", paged.seconds,
               paged.host_waits, pagingPicture(*paged.paging));
}

// The writer, too, gives its file a name only when it is full.
Result<void> makeStack(const std::string& path) {
    RandomStack random{.layers = 8, .seed = 7};
    random.description = {.model_dim = kDim, .hidden_dim = kDim, .experts = 32, .top_k = 4, .renormalize = true};
    Progress progress("making a stack of 8 layers, 32 experts each");
    VKMOE_TRY(all, parameterCount(random));
    return writeRandomStack(path, random, [&](uint64_t done) { progress.show(done, all); });
}

Result<void> demonstrate(const Context& context, Engine& engine, const std::string& name, bool& same) {
    VKMOE_CHECK(makeStack(name));
    const Nameless file(name);
    const std::string& path = file.path();
    VKMOE_TRY(rates, coldRates(engine, path));
    VKMOE_TRY(whole, runWhole(engine, path));
    const uint64_t budget = uint64_t{96} << 20;  // of 384 MiB of experts
    forgetFile(path);
    VKMOE_TRY(stack,
              Stack::open(engine, path, PagingOptions{.device_budget = budget / 4, .host_budget = budget / 4 * 3}));
    VKMOE_TRY(paged, [&] {
        ResidencyMap map([&] { return context.json ? nullptr : stack.pager(); });
        return stack.forward(tokens(),
                             {.max_batch = 1, .progress = [&](uint64_t, uint64_t) { return map.show(), true; }});
    }());
    same = paged.output.size() == whole.output.size() &&
           std::memcmp(paged.output.data(), whole.output.data(), whole.output.size() * 4) == 0;
    if (context.json) return print(asJson(rates, whole, paged, stack, same)), Result<void>();
    report(rates, whole, paged);
    fmt::print("{}\n", same ? "the same bits" : "THE BITS DIFFER");
    return {};
}

}  // namespace

int demoPage(const Context& context, const std::string& folder) {
    std::string path = (std::filesystem::path(folder) / fmt::format("vkmoe-demo-{}.safetensors", ::getpid())).string();
    bool same = true;
    int code = context.runOnDevice([&](Engine& engine) { return demonstrate(context, engine, path, same); });
    return code == kOk && !same ? kCheckFailed : code;
}

}  // namespace vkmoe::program
