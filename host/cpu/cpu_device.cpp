// The CPU device: operations run in order at submit, each dispatch over all threads.
#include <fmt/format.h>
#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <new>
#include <unordered_map>

#include "host/clock.h"
#include "host/cpu/float_environment.h"
#include "host/device.h"
#include "host/faults.h"
#include "host/host_memory.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr uint64_t kAlignment = 256;  // of every buffer

DeviceInfo cpuInfo(const DeviceOptions& options, int threads) {
    DeviceInfo info;
    info.name = fmt::format("CPU, {} threads", threads);
    info.type = DeviceType::cpu;
    info.api = info.driver = "-";
    info.identity = "cpu";
    info.memory = hostMemory();
    info.limits.memory_budget = info.memory;
    info.limits.max_allocation = info.memory;
    info.limits.round_to_nearest = info.limits.preserve_special = true;
    info.limits.host_import_alignment = kAlignment;
    if (options.clamp) {
        info.limits.memory_budget = std::min(info.limits.memory_budget, options.clamp->memory_budget);
        info.limits.max_allocation = std::min(info.limits.max_allocation, options.clamp->max_allocation);
        uint64_t import = options.clamp->host_import_alignment;
        info.limits.host_import_alignment = import != 0 ? std::max(kAlignment, import) : 0;
    }
    return info;
}

// Hands out the groups of a dispatch from `first` on in ranges, long ones first: inside a range a kernel uses again
// what neighbouring groups share (rows, weights), and at the end short ranges keep all threads busy. Every other thread
// begins at the end: what a thread had in its caches the last time, it is then likely to get again.
class GroupRanges {
public:
    GroupRanges(uint64_t first, uint64_t groups, uint64_t threads)
        : first_(first),
          last_(groups),
          threads_(threads),
          unit_(groups >= 32 * kUnit ? kUnit
                : groups >= kUnit    ? 4
                                     : 1) {}

    // False when there are no more.
    bool take(bool from_end, uint64_t& begin, uint64_t& end) {
        std::lock_guard lock(mutex_);
        if (first_ >= last_) return false;
        const uint64_t units = std::max<uint64_t>(((last_ - first_) / (2 * threads_) + unit_ - 1) / unit_, 1);
        const uint64_t last_unit = (last_ - 1) / unit_;
        begin = from_end ? std::max(first_, (last_unit + 1 - std::min(units, last_unit + 1)) * unit_) : first_;
        end = from_end ? last_ : std::min(last_, (first_ / unit_ + units) * unit_);
        (from_end ? last_ : first_) = from_end ? begin : end;
        return true;
    }

private:
    static constexpr uint64_t kUnit = 16;  // ranges of many groups begin at multiples of it
    std::mutex mutex_;
    uint64_t first_, last_;  // not handed out
    uint64_t threads_, unit_;
};

class CpuDevice final : public Device {
public:
    CpuDevice(const DeviceOptions& options, int threads)
        : Device(cpuInfo(options, threads)),
          arena_(threads),
          threads_(size_t(threads)),
          faults_(options.faults),
          simd_(options.simd),
          backwards_(options.backwards) {
        transfer_queue_ = options.emulate_transfer_queue;
    }

    Result<uint64_t> passed() override { return value_; }

    // What was started before the last time that somebody asked: no work may count on more.
    Result<uint64_t> transferred() override {
        runTransfers(asked_);
        asked_ = transfer_value_;
        return transferred_;
    }

private:
    Result<Block> allocateBlock(uint64_t bytes, Memory memory, const std::string& what) override {
        bool fails = faults_ && faults_->next(FaultyCall::allocation) != Fault::none;
        void* block = fails ? nullptr : allocateHostMemory(bytes, kAlignment);
        if (!block) return Error{ErrorCode::out_of_memory, fmt::format("{}: the system refused {} bytes", what, bytes)};
        return Block{reinterpret_cast<uint64_t>(block), 0, memory == Memory::device ? nullptr : block, block};
    }

    Result<Block> importBlock(std::span<std::byte> memory, const std::string&) override {
        return Block{reinterpret_cast<uintptr_t>(memory.data()), 0, memory.data(), nullptr, Backing::imported};
    }

    void releaseBlock(const Block& block, uint64_t bytes) override {
        runTransfers(transfer_value_);
        std::free(block.allocation);
        giveBack(block, bytes);
    }

    Result<uint64_t> buildPipeline(const KernelCode&, const ConstantWords&) override { return uint64_t{0}; }

    Result<uint64_t> submitWork(const Commands& commands) override {
        runTransfers(commands.awaitedTransfer());
        auto begin = commands.operations().begin(), end = commands.operations().end();
        while (begin != end) {
            auto barrier = std::find_if(begin, end, [](const auto& o) { return o.kind == Commands::Kind::barrier; });
            runBetweenBarriers({begin, barrier});
            begin = barrier == end ? end : barrier + 1;
        }
        return ++value_;
    }

    Result<void> waitFor(uint64_t) override { return {}; }

    Result<uint64_t> submitTransfer(const Commands& copies, uint64_t) override {
        transfers_.push_back(copies);
        return ++transfer_value_;
    }

    void runTransfers(uint64_t last) {
        for (; transferred_ < last; ++transferred_) {
            runBetweenBarriers(transfers_.front().operations());
            transfers_.pop_front();
        }
    }

    static std::byte* bytesOf(const Buffer* buffer, uint64_t offset) {
        return reinterpret_cast<std::byte*>(static_cast<uintptr_t>(buffer->address() + offset));
    }

    void runBetweenBarriers(std::span<const Commands::Operation> operations) {
        for (size_t i = 0; i < operations.size(); ++i) run(operations[backwards_ ? operations.size() - 1 - i : i]);
    }

    void run(const Commands::Operation& operation) {
        switch (operation.kind) {
            case Commands::Kind::dispatch:
                runGroups(operation, operation.groups);
                break;
            case Commands::Kind::dispatch_indirect: {
                uint32_t sizes[3];
                std::memcpy(sizes, bytesOf(operation.from, operation.from_offset), sizeof sizes);
                runGroups(operation, uint64_t(sizes[0]) * sizes[1] * sizes[2]);
                break;
            }
            case Commands::Kind::copy:
                copy(bytesOf(operation.from, operation.from_offset), bytesOf(operation.to, operation.to_offset),
                     operation.bytes);
                break;
            case Commands::Kind::fill: {
                auto* words = reinterpret_cast<uint32_t*>(bytesOf(operation.to, operation.to_offset));
                fill(words, operation.bytes / 4, operation.word);
                break;
            }
            case Commands::Kind::update:
                std::memcpy(bytesOf(operation.to, operation.to_offset), operation.params.data(), operation.bytes);
                break;
            case Commands::Kind::barrier:
                break;
        }
    }

    void runGroups(const Commands::Operation& operation, uint64_t groups) {
        const KernelCode& code = *operation.kernel->code;
        CpuKernel kernel = simd_ && code.simd ? code.simd : code.cpu;
        auto run_range = [&](uint64_t begin, uint64_t end) {
            kernel(operation.params.data(), operation.kernel->constants, {begin, end});
        };
        const double start = secondsNow();
        double& group_seconds = group_seconds_[operation.kernel];
        bool together = groups > 1 && threads_ > 1 && double(groups) * group_seconds > kLong;
        uint64_t first = together ? 0 : runAlone(groups, run_range);
        if (first < groups) runTogether(first, groups, run_range);
        if (groups > 0) group_seconds = (secondsNow() - start) / double(groups);
    }

    template <class RunRange>
    void runTogether(uint64_t first, uint64_t groups, const RunRange& run_range) {
        GroupRanges ranges(first, groups, threads_);
        auto work = [&](size_t) {
            FloatEnvironment environment;
            const bool from_end = tbb::this_task_arena::current_thread_index() % 2 != 0;
            for (uint64_t begin = 0, end = 0; ranges.take(from_end, begin, end);) run_range(begin, end);
        };
        arena_.execute([&] { tbb::parallel_for(size_t{0}, threads_, work, tbb::simple_partitioner()); });
    }

    // Runs groups in this thread until they have taken about as long as waking the others would; returns how many.
    template <class RunRange>
    uint64_t runAlone(uint64_t groups, const RunRange& run_range) {
        FloatEnvironment environment;
        if (groups <= 1 || threads_ == 1) return run_range(0, groups), groups;
        const double start = secondsNow();
        uint64_t done = 0;
        for (uint64_t step = 1; done < groups; step *= 2) {
            uint64_t end = std::min(groups, done + step);
            run_range(done, end);
            done = end;
            if (secondsNow() - start > kWaking) break;
        }
        return done;
    }

    // body(begin, end) for all of `bytes`, in pieces on all threads if they are many.
    template <class Body>
    void inPieces(uint64_t bytes, const Body& body) {
        if (bytes <= kPiece || threads_ == 1) return body(uint64_t{0}, bytes);
        arena_.execute([&] {
            tbb::parallel_for(tbb::blocked_range<uint64_t>(0, (bytes + kPiece - 1) / kPiece), [&](const auto& pieces) {
                body(pieces.begin() * kPiece, std::min(bytes, pieces.end() * kPiece));
            });
        });
    }

    void copy(const std::byte* from, std::byte* to, uint64_t bytes) {
        inPieces(bytes, [&](uint64_t begin, uint64_t end) { std::memcpy(to + begin, from + begin, end - begin); });
    }

    void fill(uint32_t* words, uint64_t count, uint32_t word) {
        inPieces(count * 4, [&](uint64_t begin, uint64_t end) { std::fill(words + begin / 4, words + end / 4, word); });
    }

    static constexpr double kWaking = 5e-6, kLong = 10 * kWaking;  // seconds
    static constexpr uint64_t kPiece = uint64_t{1} << 18;          // bytes

    tbb::task_arena arena_;
    size_t threads_;
    std::shared_ptr<Faults> faults_;
    bool simd_, backwards_;
    // Of each kernel's last dispatch, the time divided by the groups: what is long is not begun by one thread alone.
    std::unordered_map<const Kernel*, double> group_seconds_;
    uint64_t value_ = 0;
    std::deque<Commands> transfers_;  // not run yet
    uint64_t transfer_value_ = 0, transferred_ = 0, asked_ = 0;
};

}  // namespace

std::unique_ptr<Device> openCpuDevice(const DeviceOptions& options) {
    int threads = options.threads ? int(options.threads) : tbb::this_task_arena::max_concurrency();
    return std::make_unique<CpuDevice>(options, threads);
}

}  // namespace v1
}  // namespace vkmoe
