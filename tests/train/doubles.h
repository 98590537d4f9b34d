// Doubles: vectors and row-major matrices of the oracle.
#pragma once

#include <cstddef>
#include <vector>

namespace test {

using Doubles = std::vector<double>;

inline Doubles rowOf(const Doubles& matrix, size_t row, size_t width) {
    auto first = matrix.begin() + std::ptrdiff_t(row * width);
    return {first, first + std::ptrdiff_t(width)};
}

inline void append(Doubles& to, const Doubles& v) { to.insert(to.end(), v.begin(), v.end()); }

// Adds v to a row of a matrix as wide as v.
inline void addToRow(Doubles& matrix, size_t row, const Doubles& v) {
    for (size_t c = 0; c < v.size(); ++c) matrix[row * v.size() + c] += v[c];
}

inline double dot(const Doubles& a, const Doubles& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
}

inline Doubles scaled(Doubles v, double by) {
    for (double& x : v) x *= by;
    return v;
}

}  // namespace test
