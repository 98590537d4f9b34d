#include "engine/moe/host_experts.h"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cstring>
#include <limits>
#include <thread>

#include "engine/ceil_div.h"
#include "host/views.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr double kGuessAThread = 3e9, kMostGuessed = 4e10;  // bytes of weights a second
constexpr uint32_t kFewRows = 4;  // rows an expert on average, above which no input goes to the host unasked

double guessedSpeed() {
    return std::min(kMostGuessed, kGuessAThread * std::max(1u, std::thread::hardware_concurrency()));
}

// Bytes from the first to the last of what the counting sort made; Workspace places it in one piece.
uint64_t sortBytes(const Workspace& w) { return w.up_groups - w.offsets; }

}  // namespace

HostExperts::HostExperts(Device& device, HostCompute choice, const MemorySpeeds& speeds)
    : device_(device), cpu_(openCpuDevice()), choice_(choice) {
    model_ = {speeds.device_read, speeds.host_read, guessedSpeed(), guessedSpeed()};
}

// Grows the buffer if it is smaller; false if memory is short: then the device does the work.
bool HostExperts::ensure(Device& device, Buffer& buffer, Memory memory, uint64_t bytes) const {
    if (buffer && buffer.size() >= bytes) return true;
    buffer.reset();
    auto made = device.allocate(bytes, memory, "experts on the host");
    if (made) buffer = std::move(made).value();
    return bool(made);
}

// ---- choosing -------------------------------------------------------------------------------------------------------

void HostExperts::recordInputs(Commands& commands, const Pager& pager, const ExpertTurn& turn) {
    turn_ = {};
    const Workspace& w = *turn.workspace;
    const Description& d = turn.pass->description();
    bool far = false;
    for (PageId page = turn.first_page; page < turn.first_page + d.experts; ++page) far |= pager.tierOf(page) != 0;
    uint64_t slots = uint64_t{turn.tokens} * w.width;
    if (!far || (choice_ == HostCompute::automatic && slots > uint64_t{kFewRows} * d.experts)) return;
    x_bytes_ = uint64_t{turn.tokens} * d.model_dim * 4;
    if (!ensure(device_, down_, Memory::download, x_bytes_ + sortBytes(w))) return;
    turn_ = turn;
    commands.copy(w.memory, turn.pass->operands(w), down_, 0, x_bytes_);
    commands.copy(w.memory, w.offsets, down_, x_bytes_, sortBytes(w));
}

const uint32_t* HostExperts::sorted(uint64_t workspace_offset) const {
    return view<uint32_t>(down_, x_bytes_ + (workspace_offset - turn_.workspace->offsets), 1).data();
}

uint32_t HostExperts::rowsOf(PageId page) const {
    const uint32_t* offsets = sorted(turn_.workspace->offsets) + (page - turn_.first_page);
    return offsets[1] - offsets[0];
}

// The best of those that tier 1 would take goes there, for later; of a tier 1 with room, all do.
std::vector<PageId> HostExperts::pick(const Pager& pager, std::span<const PageId> pages) {
    std::vector<CostModel::Work> near, far;
    std::vector<PageId> candidates;
    double bar = choice_ == HostCompute::always ? 0 : pager.promotionBar();
    PageId rising = kNoPage;
    for (PageId page : pages)
        if (pager.tierOf(page) != 0 && pager.residency().worth(page) > bar &&
            (rising == kNoPage || pager.residency().worth(page) > pager.residency().worth(rising)))
            rising = page;
    for (PageId page : pages) {
        CostModel::Work work{pager.store().pageBytes(page), rowsOf(page)};
        bool away = pager.tierOf(page) != 0;
        bool rises = page == rising || bar == -std::numeric_limits<double>::infinity();
        if (choice_ == HostCompute::automatic && (!away || rises)) {
            near.push_back(work);
        } else if (away) {
            far.push_back(work);
            candidates.push_back(page);
        }
    }
    if (choice_ == HostCompute::always) return candidates;
    auto left = model_.leave(near, far);
    std::vector<PageId> picked;
    std::vector<CostModel::Work> kept;
    for (size_t i = 0; i < far.size(); ++i) {
        if (left[i])
            picked.push_back(candidates[i]);
        else
            kept.push_back(far[i]);
    }
    if (picked.empty())
        model_.forget();
    else
        predicted_ = model_.deviceSeconds(near, kept);
    return picked;
}

void HostExperts::choose(Pager& pager, std::span<const PageId> pages) {
    up_used_ = 0;
    status_ = {};
    predicted_ = 0;
    turn_pages_ = pages.size();
    if (!turn_.pass) return;
    const Description& d = turn_.pass->description();
    auto picked = pick(pager, pages);
    uint64_t rows = 0, slots = uint64_t{turn_.workspace->capacity} * turn_.workspace->width;
    for (PageId page : picked) rows += rowsOf(page);
    if (rows == 0 || !ensure(device_, up_, Memory::upload, rows * (uint64_t{d.hidden_dim} + d.model_dim) * 4) ||
        !ensure(*cpu_, hidden_, Memory::device, slots * d.hidden_dim * 4) ||
        !ensure(*cpu_, y_, Memory::device, slots * d.model_dim * 4))
        return;
    for (PageId page : picked) pager.leaveToHost(page);
}

// ---- computing ------------------------------------------------------------------------------------------------------

bool HostExperts::someLeft(const Pager& pager) {
    return std::any_of(pager.wave().begin(), pager.wave().end(), [&](PageId page) { return pager.leftToHost(page); });
}

bool HostExperts::allLeft(const Pager& pager) {
    return std::all_of(pager.wave().begin(), pager.wave().end(), [&](PageId page) { return pager.leftToHost(page); });
}

std::vector<HostExperts::Share> HostExperts::sharesOf(const Pager& pager) const {
    std::vector<Share> shares;
    const uint32_t* offsets = sorted(turn_.workspace->offsets);
    for (PageId page : pager.wave()) {
        if (!pager.leftToHost(page)) continue;
        uint32_t expert = page - turn_.first_page;
        auto bytes = pager.slotHolding(page)->bytes(pager.store().pageBytes(page));
        shares.push_back({page, expert, offsets[expert], rowsOf(page), bytes.data()});
    }
    std::sort(shares.begin(), shares.end(), [](const Share& a, const Share& b) { return a.expert < b.expert; });
    return shares;
}

// The kernels' addresses become those of the host; null entries of the table are the device's experts.
Result<void> HostExperts::compute(std::span<const Share> shares) {
    const Workspace& w = *turn_.workspace;
    const Description& d = turn_.pass->description();
    table_.assign(d.experts, U32{});
    tiles_.clear();
    for (const Share& s : shares) {
        table_[s.expert] = pointerTo<U32>(reinterpret_cast<uintptr_t>(s.bytes));
        for (uint32_t row = 0; row < s.rows; row += kTileRows) tiles_.insert(tiles_.end(), {s.expert, s.first + row});
    }
    auto tiles = uint32_t(tiles_.size() / 2), slots = turn_.tokens * w.width;
    auto here = [](const auto* data, auto pointer) {
        return pointerTo<decltype(pointer)>(reinterpret_cast<uintptr_t>(data));
    };
    auto place = [&](auto& p) {
        p.pages = here(table_.data(), Pages{});
        p.offsets = here(sorted(w.offsets), U32{});
        p.tiles = here(tiles_.data(), U32{});
        p.tile_count = here(&tiles, U32{});
        p.hidden = hidden_.at<F32>();
    };
    ForwardPass::ExpertWork work = turn_.pass->expertWork(w, turn_.tokens);
    place(work.up);
    place(work.down);
    work.up.x = here(down_.mapped().data(), F32{});
    work.up.token_of = here(sorted(w.token_of), U32{});
    work.up.status = here(&status_[0], U32{});
    work.down.status = here(&status_[2], U32{});
    work.down.y = y_.at<F32>();
    bool few = slots <= 2 * d.experts;
    VKMOE_TRY(up, cpu_->build(few ? kernels().expert_up_gemv : kernels().expert_up, words(work.up_constants)));
    VKMOE_TRY(down, cpu_->build(few ? kernels().expert_down_gemv : kernels().expert_down, words(work.down_constants)));
    auto threads = [&](uint32_t outputs) {
        uint64_t groups =
            few ? uint64_t{slots} * ceilDiv(outputs, kPanel) : uint64_t{tiles} * ceilDiv(outputs, kPanel * kTilePanels);
        return groups * kWorkgroup;
    };
    Commands commands;
    commands.dispatch(*up, work.up, threads(d.hidden_dim));
    commands.barrier();
    commands.dispatch(*down, work.down, threads(d.model_dim));
    VKMOE_TRY(value, cpu_->submit(commands));
    return cpu_->wait(value);
}

// Rows of an expert lie in one piece; the hidden ones are asked for by the introspection alone.
void HostExperts::recordCopies(Commands& commands, std::span<const Share> shares) {
    const Workspace& w = *turn_.workspace;
    const Description& d = turn_.pass->description();
    auto bring = [&](const Buffer& from, uint64_t to, const Share& s, uint32_t row_width) {
        uint64_t at = uint64_t{s.first} * row_width * 4, bytes = uint64_t{s.rows} * row_width * 4;
        std::memcpy(up_.mapped().data() + up_used_, reinterpret_cast<const std::byte*>(from.address()) + at, bytes);
        commands.copy(up_, up_used_, w.memory, to + at, bytes);
        up_used_ += bytes;
    };
    commands.barrier();
    for (const Share& s : shares) {
        if (turn_.pass->introspects()) bring(hidden_, w.hidden, s, d.hidden_dim);
        bring(y_, w.y, s, d.model_dim);
    }
    commands.barrier();
}

Result<void> HostExperts::run(Commands& commands, const Pager& pager, uint64_t value) {
    auto shares = sharesOf(pager);
    double bytes = 0;
    for (const Share& s : shares)
        bytes += CostModel::bytesRead({pager.store().pageBytes(s.page), s.rows}, CostModel::kHostRows);
    auto start = std::chrono::steady_clock::now();
    VKMOE_CHECK(compute(shares));
    double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    model_.learn(bytes, seconds);
    if (value != 0 && pager.wave().size() == turn_pages_) {  // what was predicted is what the device got
        VKMOE_TRY(passed, device_.passed());
        model_.learnDevice(predicted_, seconds, passed >= value);
    }
    recordCopies(commands, shares);
    return {};
}

std::array<uint32_t, 4> HostExperts::takeStatus() { return std::exchange(status_, {}); }

}  // namespace v1
}  // namespace vkmoe
