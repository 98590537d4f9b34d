#include "engine/formats/file_section.h"

#include <cassert>
#include <utility>

namespace vkmoe::formats {
namespace {

class FileSection : public ByteSource {
public:
    FileSection(std::string name, std::shared_ptr<const ByteSource> file, uint64_t offset, uint64_t bytes)
        : name_(std::move(name)), file_(std::move(file)), offset_(offset), bytes_(bytes) {
        assert(offset_ <= file_->size() && bytes_ <= file_->size() - offset_);
    }
    const std::string& name() const override { return name_; }
    uint64_t size() const override { return bytes_; }
    Result<void> read(uint64_t offset, std::span<std::byte> into) const override {
        VKMOE_CHECK(checkRange(offset, into.size()));
        return file_->read(offset_ + offset, into);
    }
    void announce(uint64_t offset, uint64_t bytes) const override {
        if (checkRange(offset, bytes)) file_->announce(offset_ + offset, bytes);
    }
    void forget(uint64_t offset, uint64_t bytes) const override {
        if (checkRange(offset, bytes)) file_->forget(offset_ + offset, bytes);
    }

private:
    std::string name_;
    std::shared_ptr<const ByteSource> file_;
    uint64_t offset_, bytes_;
};

}  // namespace

std::shared_ptr<const ByteSource> fileSection(std::string name, std::shared_ptr<const ByteSource> file, uint64_t offset,
                                              uint64_t bytes) {
    return std::make_shared<FileSection>(std::move(name), std::move(file), offset, bytes);
}

}  // namespace vkmoe::formats
