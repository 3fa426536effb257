-- SPDX-License-Identifier: MIT
-- A TCP server that sends back messages of 1 KiB, on 1,000 connections.

return dofile "bench/harness/echo.lua"(1000, 1024, 1 / 0.90)
