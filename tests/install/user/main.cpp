// Writes a fresh layer to a file, runs a token through it and checks one number, which is the same everywhere.
#include <cstdio>

#include "engine/formats/moe0.h"
#include "vkmoe/language_model.h"
#include "vkmoe/layer.h"
#include "vkmoe/layer_trainer.h"
#include "vkmoe/lm_trainer.h"
#include "vkmoe/text_codec.h"

vkmoe::Result<float> firstNumber(const char* file) {
    VKMOE_TRY(engine, vkmoe::Engine::open({.device = "cpu"}));
    VKMOE_TRY(bytes, vkmoe::formats::initMoe0({}));
    VKMOE_CHECK(vkmoe::writeFile(file, bytes));
    VKMOE_TRY(layer, vkmoe::Layer::open(*engine, file));
    std::vector<float> token(layer.description().model_dim, 0.5f);
    VKMOE_TRY(result, layer.forward(token));
    return result.output[0];
}

int main(int, char** argv) {
    auto number = firstNumber(argv[1]);
    if (!number) {
        std::printf("%s\n", number.error().detail.c_str());
        return 1;
    }
    std::printf("%a\n", double(*number));
    return *number == -0x1.233aap-9f ? 0 : 1;
}
