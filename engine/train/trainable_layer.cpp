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

namespace {

// The tensors of one expert's page, which starts at `offset` of its slab.
void addPage(ParameterSlab& slab, const std::string& name, const ExpertShape& s, const PageLayout& at, uint64_t offset,
             uint32_t& position) {
    auto add = [&](bool present, const char* what, uint64_t where, uint64_t words) {
        if (present) slab.tensors.push_back({name + what, position++, offset + where, words});
    };
    uint64_t up = packedWords(s.hidden_dim, s.model_dim, WeightFormat::f32);
    add(s.gated, ".gate.weight", at.gate_weight, up);
    add(s.gate_bias, ".gate.bias", at.gate_bias, s.hidden_dim);
    add(true, ".up.weight", at.up_weight, up);
    add(s.up_bias, ".up.bias", at.up_bias, s.hidden_dim);
    add(true, ".down.weight", at.down_weight, packedWords(s.model_dim, s.hidden_dim, WeightFormat::f32));
    add(s.down_bias, ".down.bias", at.down_bias, s.model_dim);
}

}  // namespace

Result<std::unique_ptr<TrainableLayer>> TrainableLayer::create(Engine& engine, const formats::LayerSource& source,
                                                               Precision precision, bool in_pages) {
    VKMOE_CHECK(checkTrainable(source));
    std::unique_ptr<TrainableLayer> layer(new TrainableLayer);
    VKMOE_TRY(master, in_pages ? Weights::loadUnpaged(engine, source, true) : Weights::load(engine, source, true));
    layer->master_ = std::move(master);
    layer->precision_ = precision;
    uint64_t experts = layer->description().experts;
    VKMOE_TRY(touched, upload(engine.device(), std::vector<uint32_t>(experts), "experts that were ever used"));
    layer->touched_ = std::move(touched);
    if (precision == Precision::rounded) {
        VKMOE_TRY(rounded, RoundedWeights::create(engine, layer->master_));
        layer->rounded_ = std::move(rounded);
        Commands commands;
        layer->refresh(commands);
        VKMOE_CHECK(submitAndWait(engine.device(), commands));
    }
    VKMOE_TRY(forward, ForwardPass::create(engine, layer->compute(), precision, false, true));
    layer->forward_ = std::make_unique<ForwardPass>(std::move(forward));
    return layer;
}

PagedTraining::Member TrainableLayer::member(const std::string& prefix) const {
    ParameterSlab page;
    uint32_t position = 0;
    addPage(page, "", routedShape(description(), WeightFormat::f32, WeightFormat::f32), master_.routed, 0, position);
    return {&master_, rounded_ ? &*rounded_ : nullptr, std::move(page.tensors), prefix};
}

std::vector<ParameterSlab> TrainableLayer::slabs(const std::string& prefix, uint32_t& position) const {
    const Description& d = description();
    std::vector<ParameterSlab> pages, all;
    ParameterSlab router{prefix + "router", master_.router.address(), master_.selection_bias / 4, 0, 0, {}};
    router.tensors.push_back({prefix + "router.weight", position++, 0, master_.router_bias / 4});
    if (d.router_bias)
        router.tensors.push_back({prefix + "router.bias", position++, master_.router_bias / 4, d.experts});
    ParameterSlab gate{
        prefix + "shared.router", master_.router.address() + master_.shared_router, d.model_dim, 0, 0, {}};
    if (d.shared == Shared::sigmoid_gated)
        gate.tensors.push_back({prefix + "shared.router.weight", position++, 0, d.model_dim});
    size_t routed = master_.slabs.size() - (d.shared == Shared::none ? 0 : 1);
    if (d.shared != Shared::none) {
        const Buffer& slab = master_.slabs.back();
        pages.push_back({prefix + "shared", slab.address(), slab.size() / 4, 0, 0, {}});
        pages.back().assigned = !master_.paged;
        addPage(pages.back(), prefix + "shared", sharedShape(d, WeightFormat::f32, WeightFormat::f32), master_.shared,
                0, position);
    }
    uint64_t page = master_.routed.bytes() / 4;
    uint32_t expert = 0;
    for (size_t i = 0; i < routed; ++i) {
        const Buffer& slab = master_.slabs[i];
        ParameterSlab experts{prefix + "experts", slab.address(), slab.size() / 4, uint32_t(page), 0, {}};
        experts.assigned = true;
        if (touched_) experts.touched = touched_.address() + uint64_t{expert} * 4;
        for (uint64_t at = 0; at + page <= experts.words; at += page, ++expert)
            addPage(experts, fmt::format("{}experts.{}", prefix, expert),
                    routedShape(d, WeightFormat::f32, WeightFormat::f32), master_.routed, at, position);
        all.push_back(std::move(experts));
    }
    for (ParameterSlab& shared : pages) all.push_back(std::move(shared));
    all.push_back(std::move(router));
    if (!gate.tensors.empty()) all.push_back(std::move(gate));
    return all;
}

Result<Buffer> TrainableLayer::tableOf(Engine& engine, std::span<const uint64_t> slabs) const {
    std::vector<uint64_t> pages;
    for (uint64_t page : master_.pages) {
        pages.push_back(0);  // a pager's
        for (size_t i = 0; i < master_.slabs.size(); ++i) {
            uint64_t start = master_.slabs[i].address();
            if (page >= start && page < start + master_.slabs[i].size()) pages.back() = slabs[i] + (page - start);
        }
    }
    pages.resize(description().experts + 1, 0);
    pages.push_back(slabs[master_.slabs.size()]);  // the router's
    return upload(engine.device(), pages, "table of gradients");
}

Result<Buffer> TrainableLayer::pageTable(Engine& engine, std::span<const Buffer> slabs) const {
    std::vector<uint64_t> addresses;
    for (const Buffer& slab : slabs) addresses.push_back(slab.address());
    return tableOf(engine, addresses);
}

Result<const BackwardPass*> TrainableLayer::backward(Engine& engine, BackwardPass::Form form) {
    auto& made = backward_[(form.carry ? 2 : 0) + (form.fresh ? 1 : 0)];
    if (!made) {
        VKMOE_TRY(pass, BackwardPass::create(engine, compute(), precision_, form));
        made = std::make_unique<BackwardPass>(std::move(pass));
    }
    return static_cast<const BackwardPass*>(made.get());
}

Result<LayerGradients> TrainableLayer::gradients(Engine& engine, const ParameterSet& set, size_t first) {
    size_t router = first + master_.slabs.size();
    std::vector<uint64_t> slabs;
    for (size_t i = first; i <= router; ++i) slabs.push_back(set.grads(i).address());
    VKMOE_TRY(table, tableOf(engine, slabs));
    gradient_table_ = std::move(table);
    if (paged_) VKMOE_CHECK(paged_->setOthers(PagedTraining::gradients, gradient_table_));
    bool gate = description().shared == Shared::sigmoid_gated;
    return LayerGradients{paged_ ? &paged_->table(PagedTraining::gradients) : &gradient_table_,
                          gate ? set.grads(router + 1).address() : 0, master_.routed, master_.shared,
                          master_.router_bias};
}

Result<LayerMemory> TrainableLayer::downloadGradients(Engine& engine, const ParameterSet& set, size_t first) const {
    LayerMemory memory;
    if (paged_) VKMOE_CHECK(addPages(memory, PagedTraining::gradients));
    auto words = [&](size_t slab) {
        return download<float>(engine.device(), set.grads(slab), set.slabs()[slab].words);
    };
    for (size_t i = 0; i < master_.slabs.size(); ++i) {
        VKMOE_TRY(slab, words(first + i));
        memory.slabs.push_back(std::move(slab));
    }
    VKMOE_TRY(router, words(first + master_.slabs.size()));
    memory.router = std::move(router);
    if (description().shared != Shared::sigmoid_gated) return memory;
    VKMOE_TRY(gate, words(first + master_.slabs.size() + 1));
    memory.shared_router = std::move(gate);
    return memory;
}

Result<void> TrainableLayer::addPages(LayerMemory& memory, PagedTraining::Kind kind) const {
    VKMOE_TRY(pages, paged_->read(kind));
    for (std::vector<float>& page : pages) memory.slabs.push_back(std::move(page));
    return {};
}

Result<LayerMemory> TrainableLayer::downloadWeights(Engine& engine) const {
    VKMOE_TRY(memory, v1::downloadWeights(engine, master_));
    if (!paged_) return memory;
    LayerMemory all;
    VKMOE_CHECK(addPages(all, PagedTraining::weights));
    for (auto& slab : memory.slabs) all.slabs.push_back(std::move(slab));
    all.router = std::move(memory.router);
    all.shared_router = std::move(memory.shared_router);
    return all;
}

}  // namespace v1
}  // namespace vkmoe
