// Derivatives by central differences in double, of functions that share no code with the engine.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

namespace test {

// The derivative of f by x (which it reads through the reference), to about 1e-11 of a smooth function of order 1.
template <class Function>
double derivative(double& x, const Function& f) {
    const double h = 1e-3, at = x;
    auto around = [&](double step) {
        x = at + step;
        double up = f();
        x = at - step;
        double down = f();
        return up - down;
    };
    double slope = (8 * around(h) - around(2 * h)) / (12 * h);
    x = at;
    return slope;
}

// By every element of x.
template <class Function>
std::vector<double> gradient(std::vector<double>& x, const Function& f) {
    std::vector<double> out;
    for (double& element : x) out.push_back(derivative(element, f));
    return out;
}

// The largest difference, of values of order 1.
inline double worstOf(const std::vector<float>& got, const std::vector<double>& expected) {
    if (got.size() != expected.size()) return INFINITY;
    double worst = 0;
    for (size_t i = 0; i < got.size(); ++i) {
        double error = std::abs(got[i] - expected[i]);
        worst = error <= worst ? worst : error;  // a NaN is the worst
    }
    return worst;
}

}  // namespace test
