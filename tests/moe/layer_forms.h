// Small layers with the descriptions of the systems that the engine implements.
#pragma once

#include <vector>

#include "engine/formats/tensor_source.h"
#include "vkmoe/layer.h"

namespace test {

struct LayerForm {
    const char* name;
    vkmoe::Description d;
};

vkmoe::Description sharedExpertMoe();
vkmoe::Description mixtral();
std::vector<LayerForm> layerForms();  // those two, and all others

// The layer on the engine; an error fails the test.
vkmoe::Layer loadLayer(vkmoe::Engine& engine, const vkmoe::formats::LayerSource& source);

}  // namespace test
