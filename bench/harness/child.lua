-- SPDX-License-Identifier: MIT
-- One sample of one implementation written in Lua: lua5.4 child.lua WORKLOAD WHICH SECONDS BATCHES
--
-- Runs the work once to warm up, then for about SECONDS, in three parts (in one if a single batch
-- takes longer than that), and prints for each the nanoseconds per operation that passed and that
-- the process used. With BATCHES given it runs
-- exactly that many batches and prints nothing: then somebody else counts (bench/instructions.lua).
-- With `serve PORT` in place of SECONDS it is a server until it is killed (harness/echo_client.c).
-- Its counterparts for other languages are child.py and child.js.

package.path = "bench/?.lua;" .. package.path

local native = require "native"
local workloads = require "harness.workloads"

local workload = workloads.load(arg[1])
local which = arg[2]
local port = arg[3] == "serve" and tonumber(arg[4])
local seconds = tonumber(arg[3])
local batches = not port and tonumber(arg[4])

local PARTS = 3

local function measure(work)
  if port then
    return work(port)
  end
  local batch = workload.batch
  if batches then
    for _ = 1, batches do
      work(batch)
    end
    return
  end
  local start = native.wall()
  work(batch)
  local parts = native.wall() - start < seconds * 1e9 and PARTS or 1
  for _ = 1, parts do
    collectgarbage()
    local operations = 0
    local wall, cpu = native.wall(), native.cpu()
    local stop = wall + seconds / parts * 1e9
    repeat
      work(batch)
      operations = operations + batch
    until native.wall() >= stop
    print((native.wall() - wall) / operations, (native.cpu() - cpu) / operations)
  end
end

-- Each library wants its work in a place of its own.
local runners = {
  -- Counting instructions, with a virtual clock: how often the loop polls then depends on the number
  -- of switches alone.
  concur = function(make)
    local concur = require "concur"
    local clock = batches and concur.testing.Clock()
    concur.Runner({ clock = clock or nil }):run(function()
      measure(make(concur))
    end)
  end,
  limit = function(make)
    measure(make(native))
  end,
  wrap = function(make)
    measure(make())
  end,
  luv = function(make)
    measure(make(require "luv"))
  end,
  cqueues = function(make)
    local cqueues = require "cqueues"
    local controller = cqueues.new()
    controller:wrap(function()
      measure(make(cqueues, controller))
    end)
    assert(controller:loop())
  end,
}

runners[workload[which] and which or error("no such implementation: " .. which)](workload[which])
