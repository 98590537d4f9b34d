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

}  // namespace

Result<std::unique_ptr<TrainableLayer>> TrainableLayer::create(Engine& engine, const formats::LayerSource& source,
                                                               Precision precision) {
    VKMOE_CHECK(checkTrainable(source));
    std::unique_ptr<TrainableLayer> layer(new TrainableLayer);
    VKMOE_TRY(master, Weights::load(engine, source, true));
    layer->master_ = std::move(master);
    if (precision == Precision::rounded) {
        VKMOE_TRY(rounded, RoundedWeights::create(engine, layer->master_));
        layer->rounded_ = std::move(rounded);
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
