#include "engine/train/trainable_layer.h"

#include <fmt/format.h>

#include "host/transfer.h"

namespace vkmoe {
inline namespace v1 {
namespace {

// What has gradients here: dispatch must not depend on which tokens share a call.
Result<void> checkTrainable(const formats::LayerSource& source) {
    const Description& d = source.description;
    if (d.dispatch != Dispatch::dropless)
        return Error{ErrorCode::unsupported, fmt::format("{}: dispatch is {}: only dropless layers can be trained",
                                                         source.bytes->name(), name(d.dispatch))};
    for (const auto& tensor : source.tensors)
        if (tensor.format == WeightFormat::mxfp4)
            return Error{ErrorCode::unsupported,
                         fmt::format("{} is mxfp4: weights in blocks cannot be trained", source.place(tensor))};
    return {};
}

uint64_t bytesOf(const Buffer& buffer) { return buffer.size(); }

}  // namespace

Result<std::unique_ptr<TrainableLayer>> TrainableLayer::create(Engine& engine, const formats::LayerSource& source,
                                                               Precision precision) {
    VKMOE_CHECK(checkTrainable(source));
    std::unique_ptr<TrainableLayer> layer(new TrainableLayer);
    VKMOE_TRY(master, Weights::load(engine, source, true));
    layer->master_ = std::move(master);
    if (precision == Precision::rounded) {
        VKMOE_TRY(rounded, Weights::allocateAs(engine, layer->master_, WeightFormat::bf16));
        layer->rounded_ = std::make_unique<Weights>(std::move(rounded));
        VKMOE_CHECK(layer->buildRefresh(engine));
        Commands commands;
        layer->refresh(commands);
        VKMOE_CHECK(submitAndWait(engine.device(), commands));
    }
    VKMOE_TRY(forward, ForwardPass::create(engine, layer->compute(), precision, false, true));
    layer->forward_ = std::make_unique<ForwardPass>(std::move(forward));
    VKMOE_TRY(backward, BackwardPass::create(engine, layer->compute(), precision));
    layer->backward_ = std::make_unique<BackwardPass>(std::move(backward));
    return layer;
}

Result<void> TrainableLayer::buildRefresh(Engine& engine) {
    VKMOE_TRY(round, engine.kernel(kernels().round_panels, {.weight_format = kBf16}));
    VKMOE_TRY(copy, engine.kernel(kernels().round_panels, {.weight_format = kF32}));
    round_ = round;
    copy_ = copy;
    return {};
}

void TrainableLayer::refresh(Commands& commands) const {
    if (!rounded_) return;
    refreshFamily(commands, false);
    if (description().shared != Shared::none) refreshFamily(commands, true);
    commands.copy(master_.router, 0, rounded_->router, 0, bytesOf(master_.router));
    commands.barrier();
}

// Matrices are rounded, biases copied: a bias is a matrix of one column to the kernel's copying form.
void TrainableLayer::refreshFamily(Commands& commands, bool shared) const {
    const Description& d = description();
    const PageLayout &from = shared ? master_.shared : master_.routed,
                     &to = shared ? rounded_->shared : rounded_->routed;
    uint32_t F = shared ? d.shared_dim : d.hidden_dim, D = d.model_dim;
    auto run = [&](const Kernel* kernel, uint32_t rows, uint32_t cols, uint32_t source, uint32_t target) {
        uint32_t pages = shared ? 1 : d.experts;
        RoundPanels p{master_.table.at<Pages>(),
                      rounded_->table.at<Pages>(),
                      pages,
                      shared ? d.experts : 0,
                      rows,
                      cols,
                      source,
                      target};
        uint64_t words = kernel == copy_ ? rows : packedWords(rows, cols, WeightFormat::bf16);
        commands.dispatch(*kernel, p, words * pages);
    };
    if (d.gated()) run(round_, F, D, from.gate_weight, to.gate_weight);
    run(round_, F, D, from.up_weight, to.up_weight);
    run(round_, D, F, from.down_weight, to.down_weight);
    if (shared ? d.shared_gate_bias : d.gate_bias) run(copy_, F, 1, from.gate_bias, to.gate_bias);
    if (shared ? d.shared_up_bias : d.up_bias) run(copy_, F, 1, from.up_bias, to.up_bias);
    if (shared ? d.shared_down_bias : d.down_bias) run(copy_, D, 1, from.down_bias, to.down_bias);
}

std::vector<uint64_t> TrainableLayer::slabBytes() const {
    std::vector<uint64_t> sizes;
    for (const Buffer& slab : master_.slabs) sizes.push_back(slab.size());
    sizes.push_back(master_.router.size());
    return sizes;
}

Result<LayerGradients> TrainableLayer::gradients(Engine& engine, std::span<const uint64_t> slab_addresses) {
    std::vector<uint64_t> pages;
    for (uint64_t page : master_.pages)
        for (size_t i = 0; i < master_.slabs.size(); ++i) {
            uint64_t first = master_.slabs[i].address();
            if (page >= first && page < first + master_.slabs[i].size())
                pages.push_back(slab_addresses[i] + (page - first));
        }
    pages.resize(description().experts + 1, 0);
    pages.push_back(slab_addresses.back());
    VKMOE_TRY(table, upload(engine.device(), pages, "table of gradients"));
    gradient_table_ = std::move(table);
    return LayerGradients{&gradient_table_, slab_addresses.back() + master_.shared_router, master_.routed,
                          master_.shared, master_.router_bias};
}

}  // namespace v1
}  // namespace vkmoe
