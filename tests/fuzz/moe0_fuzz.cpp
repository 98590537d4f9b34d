// libFuzzer entry of the MoE0 reader. Whatever the bytes, it gives an error of one line that names the file, or a layer
// whose tensors lie in the file.
#include "engine/formats/moe0.h"
#include "tests/fuzz/expectations.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace vkmoe;
    const auto file = memorySource("fuzz.moe0", fuzz::copyOf(data, size));
    for (const bool compat : {false, true}) {
        const auto layer = formats::readMoe0(file, {.compat = compat, .max_completed_bytes = 65536});
        if (layer)
            fuzz::checkTensors(layer.value());
        else
            fuzz::checkError(layer.error(), "fuzz.moe0: ");
    }
    return 0;
}
