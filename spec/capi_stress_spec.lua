-- SPDX-License-Identifier: MIT
-- Eight foreign threads settle 100,000 futures (spec/capi/capi_stress.c) while half of them are
-- cancelled; Lua states close while the threads still hold futures. CONCUR_STRESS scales it.

local concur = require "concur"
local support = require "spec.support"

local TOTAL = math.tointeger(100000 * (tonumber(os.getenv "CONCUR_STRESS") or 1))
local BATCH = 100

local function tally(futures, ends)
  for _, future in ipairs(futures) do
    local ok, value = pcall(future.result, future)
    local kind = ok and "done" or value.kind
    assert(not ok or value == 42)
    ends[kind] = (ends[kind] or 0) + 1
  end
end

describe("100,000 futures, settled by 8 foreign threads", function()
  local stress = require "capi_stress"

  teardown(function()
    stress.join()
  end)

  it("end once each, while half of them are cancelled", function()
    support.seed()
    local ends = {}
    concur.run(function()
      for _ = 1, TOTAL // BATCH do
        local futures = stress.make(BATCH, math.random(0, 1) * 50)
        for i = math.random(2), BATCH, 2 do -- every other one
          futures[i]:cancel(i)
        end
        tally(futures, ends)
      end
    end)
    stress.join()
    local brought, pushed, dropped, asked, settled = stress.counts()
    assert.equal(brought, pushed + dropped)
    assert.equal(settled, pushed)
    assert.equal(ends.done, pushed)
    local sum = 0
    for _, count in pairs(ends) do
      sum = sum + count
    end
    assert.equal(TOTAL, sum)
    assert.is_true(asked > 0 and ends.Closed > 0 and ends.FutureCancelled > 0)
  end)
end)

describe("a Lua state that closes while foreign threads hold its futures", function()
  it("is left alone by them", function()
    local result = support.run_lua([[
      math.randomseed(7)
      local stress = require "capi_stress"
      local code = [=[
        local concur = require "concur"
        local stress = require "capi_stress"
        local futures = stress.make(200, 2000)
        concur.sleep(0)
        for i = 1, 200, 3 do futures[i]:cancel() end
        if math.random(2) == 1 then concur.spawn(concur.gather, table.unpack(futures, 1, 10)) end
        concur.sleep(0.002)
      ]=]
      for _ = 1, tonumber(arg[1]) do
        local failed, ok, message = testhost.run(code, 1 << 40)
        assert(ok, message)
      end
      stress.join()
      local brought, pushed, dropped = stress.counts()
      assert(brought > 0 and brought == pushed + dropped, brought)
      print "all accounted for"
    ]], { lua = support.host, timeout = 60, args = { "20" } })
    assert.equal("all accounted for\n", result.stdout, support.describe(result))
    assert.equal(0, result.code, support.describe(result))
  end)
end)
