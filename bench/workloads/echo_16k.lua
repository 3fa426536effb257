-- SPDX-License-Identifier: MIT
-- A TCP server that sends back large messages, on 50 connections.

return dofile "bench/harness/echo.lua"(50, 16384, 1 / 0.80)
