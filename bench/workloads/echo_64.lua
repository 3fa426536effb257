-- SPDX-License-Identifier: MIT
-- A TCP server that sends back small messages, on 50 connections.

return dofile "bench/harness/echo.lua"(50, 64, 1 / 0.90)
