// What decides a step: options, schedules, loss scaling.
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <limits>

#include "vkmoe/optimizer.h"

using namespace vkmoe;

TEST_CASE("a constant schedule is constant, a cosine one warms up and comes down", "[optimizer]") {
    CHECK(rateFraction({}, 1) == 1);
    CHECK(rateFraction({}, 1000000) == 1);
    for (uint64_t warmup : {0u, 1u, 10u, 97u})
        for (uint64_t total : {97u, 98u, 1000u})
            for (double end : {0.0, 0.1, 1.0}) {
                Schedule s{ScheduleKind::cosine, warmup, total, end};
                CAPTURE(warmup, total, end);
                REQUIRE(validate(s));
                const uint64_t peak = std::max<uint64_t>(warmup, 1);
                double worst = 0;
                for (uint64_t step = 1; step <= total + 5; ++step) {
                    double wanted = end;
                    if (step <= peak)
                        wanted = double(step) / double(peak);
                    else if (step < total)
                        wanted =
                            end + (1 - end) *
                                      (1 + std::cos(std::acos(-1.0) * double(step - peak) / double(total - peak))) / 2;
                    worst = std::max(worst, std::abs(rateFraction(s, step) - wanted));
                }
                CHECK(rateFraction(s, peak) == 1);
                CHECK(worst <= 1e-15);
            }
}

TEST_CASE("schedules and options that cannot be are refused by field and number", "[optimizer]") {
    auto bad = validate(Schedule{ScheduleKind::cosine, 10, 9, 0});
    REQUIRE_FALSE(bad);
    CHECK(bad.error().detail == "schedule: total_steps is 9, less than the 10 of warmup_steps");
    CHECK_FALSE(validate(Schedule{ScheduleKind::cosine, 0, 0, 0}));
    CHECK_FALSE(validate(Schedule{ScheduleKind::cosine, 0, 1, 1.5}));
    CHECK_FALSE(validate(Schedule{ScheduleKind::cosine, 0, 1, std::nan("")}));
    CHECK(validate(AdamwOptions{}));
    for (double wrong : {-0.1, 1.0, std::nan("")}) {
        CHECK_FALSE(validate(AdamwOptions{.beta1 = wrong}));
        CHECK_FALSE(validate(AdamwOptions{.beta2 = wrong}));
    }
    for (double wrong : {-1.0, 1e30, std::numeric_limits<double>::infinity(), std::nan("")}) {
        CHECK_FALSE(validate(AdamwOptions{.learning_rate = wrong}));
        CHECK_FALSE(validate(AdamwOptions{.weight_decay = wrong}));
        CHECK_FALSE(validate(AdamwOptions{.max_norm = wrong}));
    }
    auto zero = validate(AdamwOptions{.epsilon = 0});
    REQUIRE_FALSE(zero);
    CHECK(zero.error().detail.starts_with("adamw: epsilon is 0, not from"));
}

TEST_CASE("the clock keeps the powers of beta, also from the middle and with other betas", "[optimizer]") {
    AdamwOptions options;
    AdamwClock clock, resumed(999);
    double power = 1;
    for (int i = 0; i < 1000; ++i) {
        clock.advance(options);
        power *= options.beta2;
    }
    resumed.advance(options);
    CHECK(clock.step() == 1000);
    CHECK(clock.power2() == power);
    CHECK(std::abs(power / std::pow(0.999, 1000) - 1) < 1e-12);
    CHECK(resumed.power1() == clock.power1());
    CHECK(resumed.power2() == clock.power2());
    clock.advance({.beta1 = 0.5});
    CHECK(1 - clock.power1() == 1);

    AdamwClock first;
    first.advance(options);
    Adamw numbers = adamwParams(options, first, 0.01, 0.25, 1e-45);
    CHECK(numbers.one_minus_beta1 == 0.1f);
    CHECK(numbers.one_minus_beta2 == 0.001f);  // 1 - 0.999 in f32 is 0.00100004673
    CHECK(numbers.correction2 == 1000.0f);
    CHECK(numbers.clip == 0);  // never subnormal
}

TEST_CASE("clipping scales down what is longer than max_norm", "[optimizer]") {
    CHECK(clipFactor({}, 1e9) == 1);
    CHECK(clipFactor({.max_norm = 2}, 2) == 1);
    CHECK(clipFactor({.max_norm = 2}, 0) == 1);
    CHECK(clipFactor({.max_norm = 2}, 8) == 0.25);
}

TEST_CASE("the loss scale backs off at once and grows after 200 good steps", "[optimizer]") {
    LossScaler scaler;
    CHECK(scaler.scale() == 16384);
    for (int i = 0; i < 199; ++i) REQUIRE(scaler.update(true));
    CHECK(scaler.scale() == 16384);
    CHECK(scaler.update(true));
    CHECK(scaler.scale() == 32768);
    for (int i = 0; i < 199; ++i) scaler.update(true);
    CHECK_FALSE(scaler.update(false));  // one short of growing: counted anew
    CHECK(scaler.scale() == 16384);
    CHECK(scaler.streak() == 0);
    for (int i = 0; i < 16; ++i) CHECK_FALSE(scaler.update(false));
    CHECK(scaler.scale() == 1);  // not below its minimum
    for (int i = 0; i < 400; ++i) scaler.update(true);
    CHECK(scaler.scale() == 4);

    LossScaler own({.initial = 10, .growth = 3, .backoff = 0.25, .minimum = 2, .interval = 2});
    LossScaler resumed({.initial = 10, .growth = 3, .backoff = 0.25, .minimum = 2, .interval = 2}, 10, 1);
    CHECK(own.update(true));
    CHECK(own.update(true));
    CHECK(own.scale() == 30);
    CHECK(resumed.update(true));
    CHECK(resumed.scale() == 30);
    CHECK_FALSE(own.update(false));
    CHECK(own.scale() == 7.5);
    CHECK_FALSE(own.update(false));
    CHECK(own.scale() == 2);
}
