-- SPDX-License-Identifier: MIT
-- The C API when memory, locks or threads are short: each allocation of the Lua state, then each of
-- the core's own, fails in turn. How it works: spec/support/faults.lua.

local faults = require "spec.support.faults"

local ALLOWED = { "not enough memory", "ENOMEM", "EMFILE", "EAGAIN", "could be started" }

---@param kinds string[] names of lists in spec/support/faults.lua; the Lua state's memory always
local function scenario(name, kinds, body)
  body = 'local probe = require "capi_probe"\n' .. body
  it(name .. " (the state's memory)", function()
    faults.fail_cleanly(faults.frame(body, { real = true }), false, { "not enough memory" })
  end)
  for _, kind in ipairs(kinds) do
    it(("%s (%s)"):format(name, kind), function()
      local options = { real = true, fresh = kind == "threads" }
      faults.fail_cleanly(faults.frame(body, options), faults[kind], ALLOWED)
    end)
  end
end

describe("running short in", function()
  scenario("futures that C settles", { "memory", "primitives" }, [[
    concur.run(function()
      local a, first = probe.future { name = "a" }
      local b, second = probe.future { cancel = true }
      local c, third = probe.future()
      first:settle("values", true)
      third:fail("OSError", "on purpose", true)
      local _, two = a:result()
      assert(two == "two")
      local ok, e = pcall(c.result, c)
      if not errors.is(e, "OSError") then error(e, 0) end
      ok, e = pcall(concur.move_on_after, 0.001, probe.join, b)
      if not ok then error(e, 0) end
      second:settle "late"
    end)
  ]])

  scenario("jobs in C", { "memory", "primitives", "threads" }, [[
    concur.run(function()
      local future = probe.submit { what = "x", name = "a job" }
      assert(probe.join(future) == "x")
      local failing = probe.submit { kind = "fail" }
      local ok, e = pcall(probe.join, failing)
      if not errors.is(e, "OSError") then error(e, 0) end
      local first, second = probe.twice()
      assert(first == "first" and second == "second")
    end)
  ]])

  scenario("posts, timers and descriptors", { "memory" }, [[
    concur.run(function()
      local loop, called = probe.loop(), 0
      local posted = probe.post(loop, function() called = called + 1 end)
      local timer = probe.timer(function() called = called + 1 end)
      local set = timer:set(0.001)
      local reading, writing, pipe = probe.pipe()
      local _ <close> = pipe
      local future = probe.fd_ready(reading, 1)
      probe.write(writing)
      assert(probe.join(future) == 1)
      concur.sleep(0.003)
      timer:free()
      if posted + set < 2 or called < 2 then error("not enough memory", 0) end
    end)
  ]])
end)
