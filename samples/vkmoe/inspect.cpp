#include <fmt/format.h>

#include "engine/formats/moe0.h"
#include "samples/vkmoe/commands.h"

namespace vkmoe::program {
namespace {

Json describe(const Description& d) {
    return {{"model_dim", d.model_dim},
            {"hidden_dim", d.hidden_dim},
            {"experts", d.experts},
            {"top_k", d.top_k},
            {"score", name(d.score)},
            {"renormalize", d.renormalize},
            {"routed_scale", d.routed_scale},
            {"activation", name(d.activation)},
            {"shared", name(d.shared)},
            {"shared_order", name(d.shared_order)},
            {"shared_dim", d.shared_dim},
            {"biases", {{"router", d.router_bias}, {"gate", d.gate_bias}, {"up", d.up_bias}, {"down", d.down_bias}}}};
}

Json tensorList(const formats::LayerSource& source) {
    Json list = Json::array();
    for (const auto& tensor : source.tensors)
        list.push_back({{"name", tensor.name},
                        {"format", name(tensor.format)},
                        {"shape", tensor.shape},
                        {"offset", tensor.offset},
                        {"bytes", tensor.bytes}});
    return list;
}

std::string shapeText(const std::vector<uint64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

void printText(const std::string& file, const formats::LayerSource& source, uint64_t parameters, uint64_t page) {
    const Description& d = source.description;
    fmt::print("{}: MoE0, one mixture-of-experts layer, {}\n", file, readableBytes(double(source.bytes->size())));
    fmt::print("  tokens of {} values, {} experts of {} hidden values, top {}, {} parameters\n", d.model_dim, d.experts,
               d.hidden_dim, d.top_k, parameters);
    fmt::print("  score {}, activation {}, shared expert {} ({}, {} hidden values)\n", name(d.score),
               name(d.activation), name(d.shared), name(d.shared_order), d.shared_dim);
    fmt::print("  an expert's page takes {} on a device\n\n", readableBytes(double(page)));
    fmt::print("  {:<28} {:<5} {:<14} {:>12} {:>12}\n", "tensor", "type", "shape", "offset", "bytes");
    for (const auto& tensor : source.tensors)
        fmt::print("  {:<28} {:<5} {:<14} {:>12} {:>12}\n", tensor.name, name(tensor.format), shapeText(tensor.shape),
                   tensor.offset, tensor.bytes);
}

}  // namespace

// Full validation: the header, every length, and (by loading it on the CPU) every value.
int inspect(const Context& context, const std::string& path) {
    auto file = openFile(path);
    if (!file) return fail(file.error());
    auto source = formats::readMoe0(*file, {.compat = context.compat});
    if (!source) return fail(source.error());
    auto engine = Engine::open(context.engineOptions("cpu"));
    if (!engine) return fail(engine.error());
    auto layer = Layer::create(**engine, *source);
    if (!layer) return fail(path, layer.error());
    for (const auto& warning : source->warnings) fmt::print(stderr, "vkmoe: warning: {}\n", warning);
    uint64_t parameters = 0;
    for (const auto& tensor : source->tensors)
        parameters += tensor.bytes / (tensor.format == WeightFormat::f32 ? 4 : 2);
    if (context.json)
        print({{"file", path},
               {"kind", "MoE0"},
               {"bytes", source->bytes->size()},
               {"parameters", parameters},
               {"page_bytes", layer->pageBytes()},
               {"description", describe(source->description)},
               {"tensors", tensorList(*source)},
               {"warnings", source->warnings}});
    else
        printText(path, *source, parameters, layer->pageBytes());
    return kOk;
}

}  // namespace vkmoe::program
