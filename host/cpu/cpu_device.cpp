// The CPU device: operations run at submit, those between two barriers together, over all threads.
#include <fmt/format.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <deque>
#include <new>
#include <vector>

#include "host/clock.h"
#include "host/cpu/float_environment.h"
#include "host/cpu/team.h"
#include "host/cpu/work_list.h"
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

class CpuDevice final : public Device {
public:
    CpuDevice(const DeviceOptions& options, int threads)
        : Device(cpuInfo(options, threads)),
          team_(size_t(threads)),
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
        team_.lead([&] { runAll(commands); });
        return ++value_;
    }

    Result<void> waitFor(uint64_t) override { return {}; }

    Result<uint64_t> submitTransfer(const Commands& copies, uint64_t) override {
        transfers_.push_back(copies);
        return ++transfer_value_;
    }

    void runTransfers(uint64_t last) {
        for (; transferred_ < last; ++transferred_) {
            team_.lead([&] { runAll(transfers_.front()); });
            transfers_.pop_front();
        }
    }

    void runAll(const Commands& commands) {
        FloatEnvironment environment;
        alone_seconds_ = 0;
        auto begin = commands.operations().begin(), end = commands.operations().end();
        while (begin != end) {
            auto barrier = std::find_if(begin, end, [](const auto& o) { return o.kind == Commands::Kind::barrier; });
            runBetweenBarriers({begin, barrier});
            begin = barrier == end ? end : barrier + 1;
        }
    }

    static std::byte* bytesOf(const Buffer* buffer, uint64_t offset) {
        return reinterpret_cast<std::byte*>(static_cast<uintptr_t>(buffer->address() + offset));
    }

    void runBetweenBarriers(std::span<const Commands::Operation> operations) {
        work_.clear();
        for (size_t i = 0; i < operations.size(); ++i) add(operations[backwards_ ? operations.size() - 1 - i : i]);
        if (backwards_ || team_.threads() == 1 || work_.left() <= 1) return work_.runHere(false);
        const double expected = work_.seconds(),
                     least = team_.called() ? kShared : std::max(kShared, kCalled - alone_seconds_);
        if (expected <= least) {
            if (expected > kShared) alone_seconds_ += expected;
            return work_.runHere(true);
        }
        const double threads = std::min({double(team_.threads()), 1 + expected / kShared, double(work_.left())});
        work_.divide(size_t(threads));
        team_.share(size_t(threads) - 1, [this](size_t place) { work_.run(place % 2 != 0); });
    }

    void add(const Commands::Operation& operation) {
        switch (operation.kind) {
            case Commands::Kind::dispatch:
                addGroups(operation, operation.groups);
                break;
            case Commands::Kind::dispatch_indirect: {
                uint32_t sizes[3];
                std::memcpy(sizes, bytesOf(operation.from, operation.from_offset), sizeof sizes);
                addGroups(operation, uint64_t(sizes[0]) * sizes[1] * sizes[2]);
                break;
            }
            case Commands::Kind::copy:
                addPieces(copied_seconds_, operation, [&operation](uint64_t begin, uint64_t end) {
                    std::memcpy(bytesOf(operation.to, operation.to_offset + begin),
                                bytesOf(operation.from, operation.from_offset + begin), end - begin);
                });
                break;
            case Commands::Kind::fill:
                addPieces(filled_seconds_, operation, [&operation](uint64_t begin, uint64_t end) {
                    auto* words = reinterpret_cast<uint32_t*>(bytesOf(operation.to, operation.to_offset));
                    std::fill(words + begin / 4, words + end / 4, operation.word);
                });
                break;
            case Commands::Kind::update:
                work_.add(1, updated_seconds_, [&operation](uint64_t, uint64_t) {
                    std::memcpy(bytesOf(operation.to, operation.to_offset), operation.params.data(), operation.bytes);
                });
                break;
            case Commands::Kind::barrier:
                break;
        }
    }

    void addGroups(const Commands::Operation& operation, uint64_t groups) {
        const KernelCode& code = *operation.kernel->code;
        CpuKernel kernel = simd_ && code.simd ? code.simd : code.cpu;
        work_.add(groups, secondsOf(operation.kernel, groups), [kernel, &operation](uint64_t begin, uint64_t end) {
            kernel(operation.params.data(), operation.kernel->constants, {begin, end});
        });
    }

    using PieceSeconds = std::array<double, 65>;  // of a copy or a fill, by the bits of how many there are

    // What a group is thought to take.
    struct Estimate {
        const Kernel* kernel = nullptr;
        uint64_t groups = 0;
        double seconds = 0;
    };

    // A dispatch that finds no place near its own takes another's, which is measured anew then.
    double& secondsOf(const Kernel* kernel, uint64_t groups) {
        const size_t first = std::hash<const Kernel*>{}(kernel) / alignof(Kernel) * 31 + groups;
        for (size_t i = 0; i < 4; ++i) {
            Estimate& there = estimates_[(first + i) % kEstimates];
            if (!there.kernel) there = {kernel, groups};
            if (there.kernel == kernel && there.groups == groups) return there.seconds;
        }
        estimates_[first % kEstimates] = {kernel, groups};
        return estimates_[first % kEstimates].seconds;
    }

    // run(begin, end) for all of the operation's bytes.
    template <class Run>
    void addPieces(PieceSeconds& seconds, const Commands::Operation& operation, Run run) {
        const uint64_t pieces = (operation.bytes + kPiece - 1) / kPiece;
        work_.add(pieces, seconds[size_t(std::bit_width(pieces))],
                  [run, bytes = operation.bytes](uint64_t begin, uint64_t end) {
                      run(begin * kPiece, std::min(bytes, end * kPiece));
                  });
    }

    // Seconds: what takes longer is shared, but helpers are called only once a list of commands has that much to share.
    static constexpr double kShared = 2e-6, kCalled = 5e-6;
    static constexpr uint64_t kPiece = uint64_t{1} << 14;  // bytes
    static constexpr size_t kEstimates = 4096;

    Team team_;
    WorkList work_;
    std::shared_ptr<Faults> faults_;
    bool simd_, backwards_;
    PieceSeconds copied_seconds_{}, filled_seconds_{};
    double updated_seconds_ = 0;
    std::vector<Estimate> estimates_ = std::vector<Estimate>(kEstimates);  // see secondsOf
    double alone_seconds_ = 0;  // of a list of commands, that helpers could have shared
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
