// libFuzzer entry of the training state's reader. The input is a file's body: its frame (magic, version, length, CRC)
// is put around it, so that the fuzzer need not guess a CRC. What is read is written, and is the same bytes.
#include "engine/formats/crc_trailer.h"
#include "engine/formats/training_state.h"
#include "tests/fuzz/expectations.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace vkmoe;
    std::vector<std::byte> bytes = formats::writeTrainingState({});
    bytes.resize(16 + size + 4);
    if (size != 0) std::memcpy(bytes.data() + 16, data, size);
    const uint64_t length = bytes.size();
    std::memcpy(bytes.data() + 8, &length, 8);
    const uint32_t crc = formats::crc32(std::span(bytes).first(bytes.size() - 4));
    std::memcpy(bytes.data() + bytes.size() - 4, &crc, 4);
    const auto state = formats::readTrainingState("fuzz.state", bytes);
    if (!state) return fuzz::checkError(state.error(), "fuzz.state: "), 0;
    fuzz::expect(formats::writeTrainingState(state.value()) == bytes);
    return 0;
}
