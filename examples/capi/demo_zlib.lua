-- SPDX-License-Identifier: MIT
-- czlib.c: compresses several texts at once, on several threads.

local concur = require "concur"
local czlib = require "czlib"

concur.run(function()
  local texts = {}
  for i = 1, 4 do
    texts[i] = ("text number %d, again and again\n"):format(i):rep(50000)
  end

  local ticks = 0
  local ticker = concur.spawn(function()
    while true do
      concur.sleep(0.001)
      ticks = ticks + 1
    end
  end)
  local jobs = {}
  for i, text in ipairs(texts) do
    jobs[i] = function() return czlib.compress(text, 9) end
  end
  local packed = concur.gather(jobs)
  ticker:cancel()

  for i, text in ipairs(texts) do
    assert(#packed[i] < #text / 10)
    assert(czlib.decompress(packed[i]) == text)
  end
  print(("%d bytes became %d"):format(#texts[1], #packed[1]))
  print("the loop went on meanwhile: " .. tostring(ticks > 0))
  print(czlib.decompress "this is not zlib's format")
  print(("crc32: %08x"):format(czlib.crc32 "123456789"))
end)
