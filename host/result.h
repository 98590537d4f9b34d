// Result<T>: a value, or an Error that says in one sentence what went wrong, with the names and numbers in it.
//
// Whatever the world can cause (files, devices, memory) is a Result; a caller's broken contract is an assert.
// The library never prints, exits or throws an exception of its own.
#pragma once

#include <cassert>
#include <string>
#include <utility>
#include <variant>

namespace vkmoe {
inline namespace v1 {

enum class ErrorCode {
    bad_input,       // a file, tensor or argument that cannot be right; the sentence names it
    io,              // the operating system refused a read or a write
    no_device,       // no Vulkan loader, no such device, or one below the floor (Vulkan 1.3 and its features)
    refused_device,  // a device whose arithmetic differs from the contract; the sentence names the failing row
    out_of_memory,   // a budget or an allocation; the sentence says asked, used and allowed
    device_lost,     // the driver lost the device
    unsupported,     // a valid request that this version does not serve
    internal         // a Vulkan call failed where it should not
};

struct Error {
    ErrorCode code = ErrorCode::internal;
    std::string detail;  // one sentence without a trailing full stop
    int vk_result = 0;   // the VkResult behind it, 0 if none
};

template <class T>
class [[nodiscard]] Result {
public:
    Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
    Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

    explicit operator bool() const { return state_.index() == 0; }
    T& value() & {
        assert(*this);
        return *std::get_if<0>(&state_);
    }
    const T& value() const& {
        assert(*this);
        return *std::get_if<0>(&state_);
    }
    T&& value() && {
        assert(*this);
        return std::move(*std::get_if<0>(&state_));
    }
    T& operator*() { return value(); }
    T* operator->() { return &value(); }
    const Error& error() const& {
        assert(!*this);
        return *std::get_if<1>(&state_);
    }
    Error&& error() && {
        assert(!*this);
        return std::move(*std::get_if<1>(&state_));
    }

private:
    std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
public:
    Result() = default;
    Result(Error error) : error_(std::move(error)), ok_(false) {}

    explicit operator bool() const { return ok_; }
    const Error& error() const& {
        assert(!ok_);
        return error_;
    }
    Error&& error() && {
        assert(!ok_);
        return std::move(error_);
    }

private:
    Error error_;
    bool ok_ = true;
};

}  // namespace v1
}  // namespace vkmoe

// VKMOE_TRY(name, expression): declares `name` as the expression's value, or returns its error from this function.
#define VKMOE_TRY(name, ...)                                     \
    auto name##_result = (__VA_ARGS__);                          \
    if (!name##_result) return std::move(name##_result).error(); \
    auto name = std::move(name##_result).value()

// VKMOE_CHECK(expression): returns the error of a Result<void> (or of any Result whose value is not wanted).
#define VKMOE_CHECK(...)                                                                              \
    do {                                                                                              \
        if (auto check_result = (__VA_ARGS__); !check_result) return std::move(check_result).error(); \
    } while (false)
