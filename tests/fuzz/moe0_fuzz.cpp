// libFuzzer entry of the MoE0 reader: clang++ -fsanitize=fuzzer,address,undefined. Whatever the bytes, the reader gives
// an error or a layer whose tensors lie in the file.
#include <cstdlib>
#include <cstring>

#include "engine/formats/moe0.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace vkmoe;
    std::vector<std::byte> bytes(size);
    if (size != 0) std::memcpy(bytes.data(), data, size);
    const std::shared_ptr<const ByteSource> file = memorySource("fuzz.moe0", bytes);
    for (bool compat : {false, true}) {
        const Result<formats::LayerSource> layer =
            formats::readMoe0(file, {.compat = compat, .max_completed_bytes = 65536});
        if (!layer) continue;
        for (const formats::TensorRange& tensor : layer.value().tensors) {
            std::vector<std::byte> into(tensor.bytes);
            if (!layer.value().bytes->read(tensor.offset, into)) std::abort();
        }
    }
    return 0;
}
