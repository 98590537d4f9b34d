// The value of a Result; an error fails the test with its sentence.
#pragma once

#include <catch2/catch_test_macros.hpp>

#include "host/result.h"

namespace test {

template <class T>
T must(vkmoe::Result<T> result) {
    if (!result) FAIL(result.error().detail);
    return std::move(result).value();
}

}  // namespace test
